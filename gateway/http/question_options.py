"""Options of the core from the fields of a request, by equal names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from typing import Any, Final

from pydantic import BaseModel

from fovea.budget import Budget
from gateway.core.encode_spec import EncodeSpec
from gateway.core.generate_spec import LlmPruning, Sampling
from gateway.http.schemas.options import LlmPrunerRequest, PruningOptions, SamplingOptions
from gateway.media.files import MediaFile, Video

__all__ = ["encode_spec", "llm_pruning", "sampling_of"]

_ENCODE_OPTIONS: Final = frozenset(item.name for item in fields(EncodeSpec)) - {
    "images",
    "videos",
    "text_ids",
    "budget",
}
"""Attributes of `EncodeSpec` that are fields of requests."""
_SAMPLING: Final = frozenset(item.name for item in fields(Sampling)) - {"max_tokens", "stop"}
"""Attributes of `Sampling` that are fields of requests. One that requests have and `Sampling` does not is ignored."""


def encode_spec(options: PruningOptions, images: tuple[MediaFile, ...], videos: tuple[Video, ...]) -> EncodeSpec:
    """The encode call of a request.

    Args:
        options: The request, or that part of it which has the options.
        images: Image files.
        videos: Videos.
    """
    budget = Budget.of(options.keep_tokens, options.keep_ratio)
    return EncodeSpec(images=images, videos=videos, budget=budget, **_values(options, _ENCODE_OPTIONS))


def sampling_of(options: SamplingOptions, *, max_tokens: int) -> Sampling:
    """Sampling parameters of a request.

    Args:
        options: The request.
        max_tokens: Maximum number of tokens to generate.
    """
    return Sampling(max_tokens=max_tokens, stop=tuple(options.stop), **_values(options, _SAMPLING))


def llm_pruning(requested: LlmPrunerRequest | None) -> LlmPruning | None:
    """The pruner inside the language model that a request names; None for none."""
    if requested is None:
        return None
    budget = Budget.of(requested.keep_tokens, requested.keep_ratio)
    assert budget is not None, "the schema requires a budget"
    return LlmPruning(name=requested.name, params=requested.params, budget=budget)


def _values(request: BaseModel, names: frozenset[str]) -> dict[str, Any]:
    """Values of those fields that this kind of request has."""
    return {name: getattr(request, name) for name in _fields_among(type(request), names)}


@cache
def _fields_among(kind: type[BaseModel], names: frozenset[str]) -> Sequence[str]:
    return [name for name in kind.model_fields if name in names]
