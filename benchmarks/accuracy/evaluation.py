"""Evaluation of methods on the same questions of the small world, so that differences of scores are paired."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.system import ImageQuestion, InProcessSystem, LlmMethod, Method
from benchmarks.harness.arguments import add_seed, positive, share
from benchmarks.harness.images import png
from benchmarks.harness.intervals import Floats, clustered_mean
from benchmarks.harness.output import add_output
from encoder_service.engine.encoded_media import EncodedMedia
from fovea.checkpoints.shipped import shipped_checkpoint
from lab.questions import GROUPS, Question, evaluation_questions, score

__all__ = [
    "BUDGETS",
    "SPLITS",
    "Evaluation",
    "MethodOutcome",
    "Split",
    "add_budgets",
    "add_evaluation_arguments",
    "shipped_system",
    "with_images",
]

Split = Literal["easy", "crowded"]
SPLITS: Final[tuple[Split, ...]] = ("easy", "crowded")
BUDGETS: Final = (Fraction(1, 18), Fraction(1, 9), Fraction(2, 9), Fraction(1, 3))
"""Shares of the visual tokens kept, unless others are asked for."""


def add_budgets(parser: argparse.ArgumentParser) -> None:
    """Adds --budgets."""
    parser.add_argument(
        "--budgets",
        nargs="+",
        type=share,
        default=list(BUDGETS),
        metavar="SHARE",
        help=f"shares of the visual tokens kept (default: {' '.join(map(str, BUDGETS))})",
    )


def add_evaluation_arguments(parser: argparse.ArgumentParser, **smoke: Any) -> None:
    """Adds --seed, --scenes, --splits, --out and --smoke; `smoke` sets further options of the short form."""
    add_seed(parser, 1, "the evaluation images")
    parser.add_argument("--scenes", type=positive, default=500, help="images of each split (default: %(default)s)")
    parser.add_argument("--splits", nargs="+", default=list(SPLITS), choices=SPLITS)
    add_output(parser, scenes=1, splits=["easy"], **smoke)


def shipped_system() -> InProcessSystem:
    """The model that ships with the code."""
    return InProcessSystem(shipped_checkpoint("llava"), shipped_checkpoint("clip"))


@dataclass(frozen=True)
class MethodOutcome:
    """Scores of one method on all questions.

    Attributes:
        scores: [Q] scores, 0 to 1.
        visual_tokens: Visual tokens that a layer of the language model processed, mean over layers and questions.
    """

    scores: Floats
    visual_tokens: float


class Evaluation:
    """The questions of one split, and the scores of the methods that have answered them.

    Args:
        system: System that answers.
        split: One of `SPLITS`.
        seed: Seed of the images.
        num_scenes: Number of images; each has one question of each group that its scene allows.
    """

    def __init__(self, system: InProcessSystem, split: Split, *, seed: int, num_scenes: int) -> None:
        self.split, self.num_scenes = split, num_scenes
        self.questions = evaluation_questions(split, seed, num_scenes)
        self._system = system
        self._asked = with_images(self.questions)
        self._clusters = np.array([question.scene.seed for question in self.questions])
        self._groups = np.array([question.group for question in self.questions])
        self._outcomes: dict[str, MethodOutcome] = {}
        self._sent: tuple[Method, list[EncodedMedia]] | None = None

    def run(self, method: Method, label: str) -> MethodOutcome:
        """Asks all questions, and prints the score to standard error; a method that was run before is not run again.

        Raises:
            InvalidRequest: `method.llm` cannot reach its budget.
        """
        key = repr(method)
        if key not in self._outcomes:
            self._outcomes[key] = self._run(lambda: self._encoded(method), method.llm, label)
        return self._outcomes[key]

    def run_encoded(
        self, label: str, encode: Callable[[Sequence[ImageQuestion]], Sequence[EncodedMedia]]
    ) -> MethodOutcome:
        """Asks all questions with the visual tokens of a function; see `run`."""
        return self._run(lambda: encode(self._asked), None, label)

    def _run(self, encode: Callable[[], Sequence[EncodedMedia]], llm: LlmMethod | None, label: str) -> MethodOutcome:
        start = time.perf_counter()
        answers = self._system.decode(self._asked, encode(), llm)
        scores = np.array([score(q, answer.text) for q, answer in zip(self.questions, answers, strict=True)])
        visual_tokens = float(np.mean([answer.visual_tokens for answer in answers]))
        print(
            f"{self.split:<8} {label:<40} {visual_tokens:5.1f} tokens: {100 * scores.mean():5.1f} %"
            f"  ({time.perf_counter() - start:.0f} s)",
            file=sys.stderr,
            flush=True,
        )
        return MethodOutcome(scores, visual_tokens)

    def cell(self, scores: Floats, **others: Floats) -> dict[str, dict[str, Any]]:
        """Cells of a row, for all questions and by group: number of questions, score, and paired differences to others.

        Args:
            scores: [Q] scores, 0 to 1.
            others: [Q] scores to subtract, by name of the difference, such as `minus_unpruned`.
        """
        cells = {}
        for group in ("all", *GROUPS):
            rows = np.ones(len(scores), bool) if group == "all" else self._groups == group
            if rows.any():
                cells[group] = {
                    "questions": int(rows.sum()),
                    "score": self._summary(scores, rows),
                    **{name: self._summary(scores - other, rows) for name, other in others.items()},
                }
        return cells

    def summary(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The split as a result file holds it."""
        return {"images": self.num_scenes, "questions": len(self.questions), "rows": rows}

    def _summary(self, values: Floats, rows: npt.NDArray[np.bool_]) -> dict[str, float]:
        return clustered_mean(values[rows], self._clusters[rows]).summary()

    def _encoded(self, method: Method) -> list[EncodedMedia]:
        """Visual tokens of all questions. The last result is cached, as many LLM-side methods read the same."""
        encoder_side = replace(method, llm=None)
        if self._sent is None or self._sent[0] != encoder_side:
            self._sent = encoder_side, self._system.encode(self._asked, encoder_side)
        return self._sent[1]


def _png(question: Question) -> bytes:
    return png(question.image)


def with_images(questions: Sequence[Question], draw: Callable[[Question], bytes] = _png) -> list[ImageQuestion]:
    """The questions with their image files; each image is drawn once."""
    drawn: dict[int, bytes] = {}
    for question in questions:
        if question.scene.seed not in drawn:
            drawn[question.scene.seed] = draw(question)
    return [ImageQuestion(drawn[question.scene.seed], question.text) for question in questions]
