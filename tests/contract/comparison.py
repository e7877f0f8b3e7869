"""Comparison of messages by the fields that the contract of a recorded commit has."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pytest

from fovea.v1 import tensor_pb2
from fovea.wire import tensors
from fovea.wire.basis import WireBasis

__all__ = ["assert_alike", "assert_same_features", "without"]

# Another CPU, or another order of additions, changes the last digits of a score, and a few codes of an integer format.
_TOLERANCE: Final = 1e-3
_MEAN_DIFFERENCE: Final = 0.01
_MAX_BYTES: Final = 2**24


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    """`fields` without some of them."""
    return {name: value for name, value in fields.items() if name not in names}


def assert_alike(got: Any, want: Any, place: str = "") -> None:
    """Asserts that `got` has all that `want` has: equal values, and numbers with a fraction within a tolerance."""
    if isinstance(want, dict):
        assert not want.keys() - got.keys(), place
        for name, value in want.items():
            assert_alike(got[name], value, f"{place}.{name}")
    elif isinstance(want, list):
        assert len(got) == len(want), place
        for i, value in enumerate(want):
            assert_alike(got[i], value, f"{place}[{i}]")
    elif isinstance(want, float):
        assert got == pytest.approx(want, rel=_TOLERANCE, abs=_TOLERANCE), place
    else:
        assert got == want, place


def assert_same_features(got: bytes, want: bytes, basis: WireBasis | None) -> None:
    """Asserts that the values of two Tensor messages of one wire format are the same, but for rounding."""
    messages = [tensor_pb2.Tensor.FromString(data) for data in (got, want)]
    assert len({message.dtype for message in messages}) == 1
    values, expected = (tensors.from_message(message, max_bytes=_MAX_BYTES, basis=basis) for message in messages)
    assert values.shape == expected.shape
    assert np.abs(values - expected).mean() <= _MEAN_DIFFERENCE * np.abs(expected).mean()
