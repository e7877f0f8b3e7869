"""Sampling of the next token: greedy, or temperature, min-p, top-k and nucleus.

Min-p is by Nguyen et al. 2024 (arXiv 2407.01082), the nucleus by Holtzman et al. 2020 (arXiv 1904.09751). Penalties
(`penalties.py`) change the logits before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor

from fovea.errors import InvalidRequest
from fovea.modeling.transfers import to_device
from fovea.sampling_ranges import SAMPLING_RANGES

__all__ = [
    "MAX_STOPS",
    "MAX_STOP_LENGTH",
    "SAMPLING_PARAMETERS",
    "SamplingParams",
    "SamplingTensors",
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
        ignore_eos: Flag: end tokens do not end the answer. They are left out of its text either way.

    Raises:
        InvalidRequest: A value is out of range.
    """

    max_tokens: int
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

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


@dataclass(frozen=True)
class SamplingTensors:
    """Sampling parameters of B sequences with a temperature above 0.

    Attributes:
        temperature: [B, 1] float64.
        min_p: [B, 1] float64; None if no sequence has it.
        top_k: [B, 1] int64, at least 1; None if no sequence has it.
        top_p: [B, 1] float64; None if no sequence has it.
    """

    temperature: Tensor
    min_p: Tensor | None
    top_k: Tensor | None
    top_p: Tensor | None

    @classmethod
    def of(cls, params: Sequence[TokenSampling], vocab_size: int, device: torch.device) -> SamplingTensors:
        """The parameters on a device."""

        def column(values: list[float]) -> Tensor:
            return to_device(torch.tensor(values, dtype=torch.float64), device)[:, None]

        top_k = [one.top_k if 0 < one.top_k < vocab_size else vocab_size for one in params]
        return cls(
            column([one.temperature for one in params]),
            column([one.min_p for one in params]) if any(one.min_p > 0 for one in params) else None,
            to_device(torch.tensor(top_k), device)[:, None] if min(top_k) < vocab_size else None,
            column([one.top_p for one in params]) if any(one.top_p < 1 for one in params) else None,
        )


def sample(logits: Tensor, params: SamplingTensors, draws: Tensor) -> Tensor:
    """[B] ids of the next tokens.

    Args:
        logits: [B, V] finite logits, after the penalties.
        params: Sampling parameters.
        draws: [B] float64 random numbers in [0, 1), one of each sequence.
    """
    # Inverse transform sampling in the order of ids. An order by probability would swap nearly equal tokens when
    # another batch shifts the logits by a rounding error.
    cumulative = sampling_weights(logits, params).cumsum(-1)
    thresholds = draws[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, thresholds, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


def sampling_weights(logits: Tensor, params: SamplingTensors) -> Tensor:
    """[B, V] float64 probabilities of the next tokens, up to a common factor of each row.

    The order of the filters is vLLM's: min_p, top_k, then top_p as a share of the probability that the other two leave.
    A token that is as probable as the last one that min_p or top_k keeps is kept as well.
    """
    logits = logits.double()
    # Subtracting the maximum keeps a tiny temperature from overflowing.
    weights = torch.softmax((logits - logits.amax(-1, keepdim=True)) / params.temperature, dim=-1)
    if params.min_p is not None:
        weights = weights.where(weights >= params.min_p * weights.amax(-1, keepdim=True), 0.0)
    if params.top_k is None and params.top_p is None:
        return weights
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    if params.top_k is not None:
        least = ordered.gather(1, params.top_k - 1)
        weights, ordered = (one.where(one >= least, 0.0) for one in (weights, ordered))
    if params.top_p is not None:
        # The nucleus is the smallest set of most probable tokens whose sum reaches its mass.
        mass = params.top_p * ordered.sum(-1, keepdim=True)
        before = ordered.cumsum(-1) - ordered  # exactly 0 for the largest, which is therefore always kept
        is_kept = torch.empty_like(order, dtype=torch.bool).scatter_(1, order, (before < mass) | (params.top_p >= 1))
        weights = weights.where(is_kept, 0.0)
    return weights
