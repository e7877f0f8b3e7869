"""The generate call of a question: prompt, sampling and the pruner inside the language model, as values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import struct_pb2

from fovea.budget import Budget
from fovea.sampling_ranges import SAMPLING_RANGES, Range
from fovea.v1 import llm_pb2
from fovea.wire.budgets import write_budget

__all__ = ["SAMPLING_PARAMETERS", "GenerateSpec", "LlmPruning", "Sampling"]


SAMPLING_PARAMETERS: Final[Mapping[str, Range]] = {
    "temperature": SAMPLING_RANGES["temperature"],
    "top_p": Range(0, 1),
    "top_k": Range(0, 2**31 - 1),
    "min_p": SAMPLING_RANGES["min_p"],
    "repetition_penalty": SAMPLING_RANGES["repetition_penalty"],
    "presence_penalty": SAMPLING_RANGES["presence_penalty"],
    "frequency_penalty": SAMPLING_RANGES["frequency_penalty"],
}
"""Ranges of the parameters for which an LLM service may report a default."""

_NEUTRAL: Final[Mapping[str, float]] = {
    "top_k": 0,
    "min_p": 0,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "ignore_eos": False,
}
"""Values without effect of the parameters that an LLM service may not have."""

_OF_RANDOM_CHOICE: Final = ("top_p", "top_k", "min_p", "seed")
"""Parameters that greedy decoding ignores."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling parameters. None stands for the LLM service's default, until `resolved` has filled it in.

    Attributes:
        max_tokens: Maximum number of tokens to generate.
        temperature: Temperature; 0 is greedy decoding.
        top_p: Probability mass of the nucleus.
        top_k: Number of most probable tokens that are sampled from; 0 for all.
        min_p: Least probability of a sampled token, as a share of that of the most probable one.
        repetition_penalty: Divisor of the logits of tokens that occur in the prompt or the text; 1 for none.
        presence_penalty: Amount subtracted from the logits of tokens that occur in the text.
        frequency_penalty: Amount subtracted for each time that a token occurs in the text.
        seed: Seed; None for a random one.
        stop: Stop strings.
        ignore_eos: Whether only `max_tokens` and stop strings end the text, and end tokens do not.
    """

    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool | None = None

    @property
    def is_deterministic(self) -> bool:
        """Whether the same prompt always has the same answer, which may then be cached."""
        return self.temperature == 0 or self.seed is not None

    def lacking(self, accepted: Collection[str]) -> list[str]:
        """Names of the given parameters that have an effect and that are not among the `accepted`."""
        given = {name: getattr(self, name) for name in _NEUTRAL if name not in accepted}
        return [name for name, value in given.items() if value not in (None, _NEUTRAL[name])]

    def resolved(self, defaults: Mapping[str, float], accepted: Collection[str]) -> Sampling:
        """The parameters with the LLM service's defaults for what is left out.

        Parameters that the service lacks or that greedy decoding ignores are unset. Equal answers thus have equal
        parameters.

        Args:
            defaults: Values by attribute.
            accepted: Parameters that the service has.
        """
        values = vars(self) | {"ignore_eos": self.ignore_eos or None}
        for name in SAMPLING_PARAMETERS:
            if values[name] is None:
                values[name] = defaults.get(name)
        unset = [name for name in _NEUTRAL if name not in accepted]
        if values["temperature"] == 0:
            unset += _OF_RANDOM_CHOICE
        return Sampling(**values | dict.fromkeys(unset))

    def to_proto(self) -> llm_pb2.SamplingParams:
        """The message."""
        return llm_pb2.SamplingParams(**vars(self))


@dataclass(frozen=True, kw_only=True)
class LlmPruning:
    """Pruner inside the language model.

    Attributes:
        name: Name of the pruner.
        params: Parameters of the pruner by name.
        budget: Visual tokens to keep of all that the first pruner kept.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget

    def to_proto(self) -> llm_pb2.LlmPruner:
        """The message."""
        params = struct_pb2.Struct()
        params.update(self.params)
        message = llm_pb2.LlmPruner(name=self.name, params=params)
        write_budget(self.budget, message)
        return message


@dataclass(frozen=True, kw_only=True)
class GenerateSpec:
    """Specification of a generate call, without its visual tokens.

    Attributes:
        input_ids: Ids of the language model's prompt.
        sampling: Sampling parameters.
        llm_pruner: Pruner inside the language model; None for none.
        top_logprobs: Number of most probable tokens to report for each token of the text, with its log-probability;
            None for no log-probabilities.
        cache_salt: Tenant to whom cached results belong; empty for none.
    """

    input_ids: tuple[int, ...]
    sampling: Sampling
    llm_pruner: LlmPruning | None = None
    top_logprobs: int | None = None
    cache_salt: str = ""

    def to_proto(self) -> llm_pb2.GenerateRequest:
        """The message, without visual tokens."""
        return llm_pb2.GenerateRequest(
            input_ids=self.input_ids,
            sampling=self.sampling.to_proto(),
            llm_pruner=self.llm_pruner.to_proto() if self.llm_pruner is not None else None,
            top_logprobs=self.top_logprobs,
            cache_salt=self.cache_salt,
        )
