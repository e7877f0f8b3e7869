"""Drawing of questions with balanced answers, in the small world and in `lab.world576`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

T = TypeVar("T")


class Candidate(Protocol):
    """A possible question: template key, the names to fill in, and the answer."""

    @property
    def template(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def answer(self) -> str: ...


C = TypeVar("C", bound=Candidate)


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """One of the options, each with equal probability."""
    return options[int(rng.integers(len(options)))]


def draw_balanced(
    group: str,
    possible: Sequence[C],
    templates: Mapping[str, Sequence[str]],
    rng: np.random.Generator,
    asked: Counter[str] | None,
) -> tuple[C, str]:
    """One of the candidate questions, and its text.

    The answer is drawn first, with equal probability, so that answers are balanced. With `asked` only the least used
    answers are drawn, which balances a whole set.

    Args:
        group: group of the question.
        possible: candidate questions, at least one.
        templates: phrasings of each template.
        rng: random generator.
        asked: number of uses of each "group:answer", updated here; None to draw from all answers.
    """
    by_answer: dict[str, list[C]] = {}
    for candidate in possible:
        by_answer.setdefault(candidate.answer, []).append(candidate)
    answers = sorted(by_answer)
    if asked is not None and group != "caption":
        least = min(asked[f"{group}:{answer}"] for answer in answers)
        answers = [answer for answer in answers if asked[f"{group}:{answer}"] == least]
    answer = pick(answers, rng)
    if asked is not None:
        asked[f"{group}:{answer}"] += 1
    chosen = pick(by_answer[answer], rng)
    return chosen, pick(templates[chosen.template], rng).format(*chosen.names)
