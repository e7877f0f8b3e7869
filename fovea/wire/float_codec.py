"""Codecs of the wire formats of floating-point values: each value is a little-endian number of a fixed width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fovea.errors import InvalidRequest
from fovea.wire.basis import WireBasis
from fovea.wire.codec import Codec, Coding, Float32Array
from fovea.wire.quantized import all_finite

__all__ = ["BFLOAT16", "FLOAT16", "FLOAT32", "FloatCodec", "float16_bytes"]


@dataclass(frozen=True)
class FloatCodec(Codec):
    """Codec of values of one width.

    Attributes:
        width: bytes of a value.
        to_bytes: function from values to their bytes.
        from_bytes: function from bytes to the values, [size].
    """

    width: int
    to_bytes: Callable[[Float32Array], bytes]
    from_bytes: Callable[[bytes], Float32Array]

    def encode(self, tokens: Float32Array, coding: Coding) -> bytes:
        return self.to_bytes(tokens)

    def decode(self, data: bytes, num_tokens: int, channels: int, basis: WireBasis | None = None) -> Float32Array:
        return self.from_bytes(data).reshape(num_tokens, channels)

    def expected_bytes(self, num_tokens: int, channels: int, basis: WireBasis | None = None) -> int:
        return num_tokens * channels * self.width

    def exact_bytes(self, num_values: int) -> int:
        return num_values * self.width


def float16_bytes(values: npt.NDArray[np.float16]) -> bytes:
    """Bytes of values in float16.

    Raises:
        InvalidRequest: a value is not finite, or was too large for float16.
    """
    if not all_finite(values):
        raise InvalidRequest("the tensor has values that are not finite in float16")
    return values.astype("<f2", copy=False).tobytes()


def _to_float16(values: Float32Array) -> bytes:
    with np.errstate(over="ignore"):
        return float16_bytes(values.astype(np.float16))


def _to_bfloat16(values: Float32Array) -> bytes:
    # The upper halves of binary32 numbers, rounded to the nearest even.
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def _from_bfloat16(data: bytes) -> Float32Array:
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)


FLOAT32: Final = FloatCodec(
    4,
    lambda values: values.astype("<f4", copy=False).tobytes(),
    lambda data: np.frombuffer(data, "<f4").astype(np.float32),
)
FLOAT16: Final = FloatCodec(2, _to_float16, lambda data: np.frombuffer(data, "<f2").astype(np.float32))
BFLOAT16: Final = FloatCodec(2, _to_bfloat16, _from_bfloat16)
