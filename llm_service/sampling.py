"""Sampling of the next token: greedy, or temperature, min-p, top-k and nucleus.

Min-p is by Nguyen et al. 2024 (arXiv 2407.01082), the nucleus by Holtzman et al. 2020 (arXiv 1904.09751). Penalties
(`penalties.py`) change the logits before.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import torch

from fovea.errors import InvalidRequest
from fovea.sampling_ranges import SAMPLING_RANGES

__all__ = [
    "MAX_STOPS",
    "MAX_STOP_LENGTH",
    "SAMPLING_PARAMETERS",
    "SamplingParams",
    "TokenSampling",
    "make_generator",
    "sample",
    "sampling_weights",
]

MAX_STOPS: Final = 8
MAX_STOP_LENGTH: Final = 256


@dataclass(frozen=True, kw_only=True)
class TokenSampling:
    """Choice of a token from logits: the sampling parameters for which a checkpoint may have defaults.

    Attributes:
        temperature: Temperature from 0 (greedy) to 2.
        top_p: Probability mass of the nucleus, in (0, 1].
        top_k: Number of most probable tokens to sample from; 0 for all.
        min_p: Least probability as a share of the largest one, from 0 to 1; 0 for none.
        repetition_penalty: Divisor of positive and factor of negative logits of all ids in prompt and answer, from 0.01
            to 10; 1 for none.
        presence_penalty: Amount subtracted from the logit of each id in the answer, from -2 to 2.
        frequency_penalty: Amount subtracted from the logit of an id for each time that it is in the answer, -2 to 2.

    Raises:
        InvalidRequest: A value is out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        for name, accepted in SAMPLING_RANGES.items():
            _check(name, getattr(self, name), accepted.accepts(getattr(self, name)), str(accepted))
        # The comparisons are also false for NaN.
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        _check("top_k", self.top_k, self.top_k >= 0, "0 (all tokens) or more")


@dataclass(frozen=True)
class SamplingParams(TokenSampling):
    """Sampling parameters of a request.

    Attributes:
        max_tokens: Most tokens to generate, at least 1.
        seed: Seed, 0 to 2^64 - 1; the text does not depend on the rest of the batch. None for a random one.
        stop: Stop strings, up to 8 of 1 to 256 characters; the text ends before the first that occurs.

    Raises:
        InvalidRequest: A value is out of range.
    """

    max_tokens: int
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise InvalidRequest("seed must be a whole number from 0 to 2^64 - 1", param="seed")
        if len(self.stop) > MAX_STOPS:
            raise InvalidRequest(f"at most {MAX_STOPS} stop strings are accepted, not {len(self.stop)}", param="stop")
        if any(not 1 <= len(stop) <= MAX_STOP_LENGTH for stop in self.stop):
            raise InvalidRequest(f"a stop string must have 1 to {MAX_STOP_LENGTH} characters", param="stop")


SAMPLING_PARAMETERS: Final = tuple(field.name for field in fields(SamplingParams))


def _check(name: str, value: float, accepted: bool, expected: str) -> None:
    if not accepted:
        raise InvalidRequest(f"{name} must be {expected}, not {value:g}", param=name)


def make_generator(params: SamplingParams) -> torch.Generator:
    """Random generator of one sequence. It is on the CPU, so that a seed gives the same text on every device."""
    generator = torch.Generator()
    if params.seed is None:
        generator.seed()
    else:
        generator.manual_seed(params.seed)
    return generator


def sample(logits: torch.Tensor, params: TokenSampling, generator: torch.Generator) -> int:
    """The next token of one sequence.

    Args:
        logits: [V] finite logits, after the penalties.
        params: Temperature, min_p, top_k and top_p; temperature 0 takes the largest logit and does not use `generator`.
        generator: Random generator; each sampled token draws exactly one number.
    """
    if params.temperature == 0:
        return int(logits.argmax())
    # Inverse transform sampling in the order of ids. An order by probability would swap nearly equal tokens when
    # another batch shifts the logits by a rounding error.
    cumulative = sampling_weights(logits, params).cumsum(-1)
    threshold = torch.rand((), dtype=torch.float64, generator=generator) * cumulative[-1]
    return int(torch.searchsorted(cumulative, threshold, right=True).clamp(max=len(cumulative) - 1))


def sampling_weights(logits: torch.Tensor, params: TokenSampling) -> torch.Tensor:
    """[V] float64 probabilities of the next token on the CPU, up to a common factor.

    The order of the filters is vLLM's: min_p, top_k, then top_p as a share of the probability that the other two leave.
    A token that is as probable as the last one that min_p or top_k keeps is kept as well.
    """
    logits = logits.to("cpu", torch.float64)
    # Subtracting the maximum keeps a tiny temperature from overflowing.
    weights = torch.softmax((logits - logits.max()) / params.temperature, dim=-1)
    if params.min_p > 0:
        weights = weights.where(weights >= params.min_p * weights.max(), 0.0)
    if 0 < params.top_k < len(weights):
        weights = weights.where(weights >= weights.topk(params.top_k).values[-1], 0.0)
    if params.top_p < 1:
        weights = _keep_nucleus(weights, params.top_p * float(weights.sum()))
    return weights


def _keep_nucleus(weights: torch.Tensor, mass: float) -> torch.Tensor:
    """[V] weights, zeroed outside the smallest set of largest ones whose sum reaches `mass`."""
    ordered, order = weights.sort(descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered  # exactly 0 for the largest, which is therefore always kept
    return weights.index_fill(0, order[before >= mass], 0.0)
