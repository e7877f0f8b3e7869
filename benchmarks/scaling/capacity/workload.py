"""What is asked, and when."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["SimulatedQuestion", "Workload", "bursts", "poisson"]


@dataclass(frozen=True, slots=True)
class SimulatedQuestion:
    """One request.

    Attributes:
        pictures: In it.
        answer_tokens: Of its answer.
        cached: "answer" or "visual_tokens", where a cache of the gateway holds that; else empty.
    """

    pictures: int
    answer_tokens: int
    cached: str = ""


@dataclass(frozen=True)
class Workload:
    """A kind of questions.

    Attributes:
        pictures: In each.
        answer_tokens: Of the answers, one after the other, over and over.
        answer_hits: Share whose answer is cached.
        visual_token_hits: Share whose visual tokens are cached, but not the answer.
    """

    pictures: int
    answer_tokens: tuple[int, ...]
    answer_hits: float = 0.0
    visual_token_hits: float = 0.0

    def questions(self, rng: np.random.Generator) -> Iterator[SimulatedQuestion]:
        """Without end."""
        for tokens in itertools.cycle(self.answer_tokens):
            draw = rng.random()
            cached = "answer" if draw < self.answer_hits else ""
            if self.answer_hits <= draw < self.answer_hits + self.visual_token_hits:
                cached = "visual_tokens"
            yield SimulatedQuestion(self.pictures, tokens, cached)

    @property
    def mean_answer_tokens(self) -> float:
        """Per question."""
        return sum(self.answer_tokens) / len(self.answer_tokens)


def poisson(rate: float, rng: np.random.Generator) -> Iterator[float]:
    """Moments of arrivals at random, `rate` a second on average, without end."""
    now = 0.0
    while True:
        now += rng.exponential(1 / rate)
        yield now


def bursts(
    rate: float, rng: np.random.Generator, *, factor: float, share: float = 0.1, period_s: float = 10.0
) -> Iterator[float]:
    """Arrivals at random, in the first `share` of every period `factor` times as many as on average; without end.

    Raises:
        ValueError: More would come in the bursts than come at all.
    """
    if factor * share > 1:
        raise ValueError(f"bursts of {factor:g} times the rate in {share:g} of the time are more than all arrivals")
    outside = rate * (1 - factor * share) / (1 - share)
    for moment in poisson(rate * factor, rng):  # thinned (Lewis & Shedler 1979)
        inside = moment % period_s < share * period_s
        if inside or rng.random() * rate * factor < outside:
            yield moment
