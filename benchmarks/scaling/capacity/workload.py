"""Workload of the simulation: questions, and their arrival times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["SimulatedQuestion", "Workload", "bursts", "poisson"]


@dataclass(frozen=True, slots=True)
class SimulatedQuestion:
    """One request of the simulation.

    Attributes:
        images: Number of images.
        answer_tokens: Tokens of the answer.
        cached: Entry that a cache of the gateway holds, "answer" or "visual_tokens"; empty for none.
    """

    images: int
    answer_tokens: int
    cached: str = ""


@dataclass(frozen=True)
class Workload:
    """Distribution of the questions.

    Attributes:
        images: Images of each question.
        answer_tokens: Tokens of the answers, in turns.
        answer_hits: Share of questions whose answer is cached.
        visual_token_hits: Share of questions whose visual tokens are cached, but not the answer.
    """

    images: int
    answer_tokens: tuple[int, ...]
    answer_hits: float = 0.0
    visual_token_hits: float = 0.0

    def questions(self, rng: np.random.Generator) -> Iterator[SimulatedQuestion]:
        """Questions, without end."""
        for tokens in itertools.cycle(self.answer_tokens):
            sample = rng.random()
            cached = "answer" if sample < self.answer_hits else ""
            if self.answer_hits <= sample < self.answer_hits + self.visual_token_hits:
                cached = "visual_tokens"
            yield SimulatedQuestion(self.images, tokens, cached)

    @property
    def mean_answer_tokens(self) -> float:
        """Mean tokens of an answer."""
        return sum(self.answer_tokens) / len(self.answer_tokens)


def poisson(rate: float, rng: np.random.Generator) -> Iterator[float]:
    """Arrival times of a Poisson process of `rate` arrivals a second, without end."""
    now = 0.0
    while True:
        now += rng.exponential(1 / rate)
        yield now


def bursts(
    rate: float, rng: np.random.Generator, *, factor: float, share: float = 0.1, period_s: float = 10.0
) -> Iterator[float]:
    """Random arrival times, without end; in the first `share` of every period the rate is `factor` times the mean.

    Raises:
        ValueError: The bursts would have more arrivals than there are.
    """
    if factor * share > 1:
        raise ValueError(f"bursts of {factor:g} times the rate in {share:g} of the time are more than all arrivals")
    outside = rate * (1 - factor * share) / (1 - share)
    for arrival in poisson(rate * factor, rng):  # thinned (Lewis & Shedler 1979)
        inside = arrival % period_s < share * period_s
        if inside or rng.random() * rate * factor < outside:
            yield arrival
