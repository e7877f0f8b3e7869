"""Profiles of models for tests, free but for given costs."""

from __future__ import annotations

import dataclasses
from typing import Any

from benchmarks.scaling.capacity.profile import Decode, Encode, Prefill, Profile, Regroup

__all__ = ["FREE", "costs"]

FREE = Profile(
    name="costs nothing",
    origin="derived",
    notes=(),
    shares_cores=False,
    encode=Encode(0, 0, 0, 0),
    prefill=Prefill(0, 0, 0, 0, 0),
    decode=Decode(0, 0, 0, 0),
    regroup=Regroup(0, 0),
    prepare_per_image=0,
    encoder_call=0,
    llm_call=0,
    llm_per_token=0,
    gateway_request=0,
    gateway_per_image=0,
    gateway_per_token=0,
    text_tokens=10,
    visual_tokens=20,
    request_bytes=0,
    token_bytes=0,
)


def costs(**changes: Any) -> Profile:
    """FREE with these costs."""
    return dataclasses.replace(FREE, **changes)
