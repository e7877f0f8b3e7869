"""Sampling of the next token: greedy, or temperature and nucleus (Holtzman et al. 2020, arXiv 1904.09751)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from fovea.errors import InvalidRequest

__all__ = ["MAX_STOPS", "MAX_STOP_LENGTH", "SamplingParams", "make_generator", "sample"]

MAX_STOPS: Final = 8
MAX_STOP_LENGTH: Final = 256


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters of a request.

    Attributes:
        max_tokens: Most tokens to generate, at least 1.
        temperature: Temperature from 0 (greedy) to 2.
        top_p: Probability mass of the nucleus, in (0, 1].
        seed: Seed, 0 to 2^64 - 1; the text does not depend on the rest of the batch. None for a random one.
        stop: Stop strings, up to 8 of 1 to 256 characters; the text ends before the first that occurs.

    Raises:
        InvalidRequest: A value is out of range.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InvalidRequest(f"max_tokens must be at least 1, not {self.max_tokens}", param="max_tokens")
        # These comparisons are also false for NaN.
        if not 0 <= self.temperature <= 2:
            raise InvalidRequest(f"temperature must be 0 to 2, not {self.temperature:g}", param="temperature")
        if not 0 < self.top_p <= 1:
            raise InvalidRequest(f"top_p must be above 0 and at most 1, not {self.top_p:g}", param="top_p")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise InvalidRequest("seed must be a whole number from 0 to 2^64 - 1", param="seed")
        if len(self.stop) > MAX_STOPS:
            raise InvalidRequest(f"at most {MAX_STOPS} stop strings are accepted, not {len(self.stop)}", param="stop")
        if any(not 1 <= len(stop) <= MAX_STOP_LENGTH for stop in self.stop):
            raise InvalidRequest(f"a stop string must have 1 to {MAX_STOP_LENGTH} characters", param="stop")


def make_generator(params: SamplingParams) -> torch.Generator:
    """Random generator of one sequence. It is on the CPU, so that a seed gives the same text on every device."""
    generator = torch.Generator()
    if params.seed is None:
        generator.seed()
    else:
        generator.manual_seed(params.seed)
    return generator


def sample(logits: torch.Tensor, params: SamplingParams, generator: torch.Generator) -> int:
    """The next token of one sequence.

    Args:
        logits: [V] finite logits.
        params: Temperature and nucleus; temperature 0 takes the largest logit and does not use `generator`.
        generator: Random generator; each sampled token draws exactly one number.
    """
    if params.temperature == 0:
        return int(logits.argmax())
    logits = logits.to("cpu", torch.float64)
    # Subtracting the maximum keeps a tiny temperature from overflowing.
    probs = torch.softmax((logits - logits.max()) / params.temperature, dim=-1)
    if params.top_p < 1:
        probs = _keep_nucleus(probs, params.top_p)
    # Inverse transform sampling in the order of ids. An order by probability would swap nearly equal tokens when
    # another batch shifts the logits by a rounding error.
    cumulative = probs.cumsum(-1)
    threshold = torch.rand((), dtype=torch.float64, generator=generator) * cumulative[-1]
    return int(torch.searchsorted(cumulative, threshold, right=True).clamp(max=len(probs) - 1))


def _keep_nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """[V] probabilities, zeroed outside the smallest set of largest ones whose sum reaches `top_p`."""
    ordered, order = probs.sort(descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered  # exactly 0 for the largest, which is therefore always kept
    return probs.index_fill(0, order[before >= top_p], 0.0)
