"""Codec of the integer wire formats, which store small integer codes. The layout is in docs/wire.md.

A value is mean[channel] + scale[token, group] * code. Codes are packed to the bit or Huffman-coded, whichever is
shorter.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fovea.errors import CheckpointMismatch, InvalidRequest
from fovea.wire.basis import WireBasis
from fovea.wire.codec import Codec, Coding, Float32Array
from fovea.wire.cosine_transform import MAX_TRANSFORMED_TOKENS, cosines
from fovea.wire.quantized import (
    DEFLATED,
    HAS_MEAN,
    HEADER,
    PACKED,
    TRANSFORMED,
    VERSION,
    Quantized,
    Scheme,
)

__all__ = ["IntegerCodec", "decode", "expected_bytes", "quantize"]

_HUFFMAN_TABLE_BYTES: Final = 96
_SCALED_TOKENS: Final = 256
"""Tokens whose values are scaled at once, which bounds the memory for the scale of each value."""


def expected_bytes(num_tokens: int, channels: int, scheme: Scheme) -> int:
    """Upper limit of the bytes of the body of a [num_tokens, channels] tensor; for ENTROPY an estimate."""
    groups = 1 if scheme.group <= 0 else -(-channels // scheme.group)
    scales = 1 if scheme.group < 0 else num_tokens * groups
    outliers = num_tokens * scheme.num_outliers(channels)
    side_bytes = HEADER.size + 2 * scales + 4 * outliers + 2 * channels * scheme.has_mean(num_tokens)
    code_bytes = math.ceil(num_tokens * channels * scheme.bits / 8)
    if scheme.coded_bits:
        coded_bytes = math.ceil(num_tokens * channels * scheme.coded_bits / 8) + _HUFFMAN_TABLE_BYTES
        code_bytes = min(code_bytes, coded_bytes)
    return side_bytes + code_bytes


def quantize(array: Float32Array, scheme: Scheme) -> Quantized:
    """Quantized tokens. `Quantized.is_finite` is False if a value is too large for the scales.

    The error of a value is at most half its scale, plus the rounding of a mean or an outlier to float16. With a
    transform, half the scale limits the root mean square of the errors of each channel instead.
    `encoder_service.engine.wire_values` computes the same on a device, bit for bit.

    Args:
        array: finite tokens, [R, C].
        scheme: quantization.
    """
    num_tokens, channels = array.shape
    has_mean = scheme.has_mean(num_tokens)
    is_transformed = scheme.transforms and has_mean and num_tokens <= MAX_TRANSFORMED_TOKENS
    with np.errstate(over="ignore", invalid="ignore"):
        mean = _mean(array) if has_mean else np.empty(0, "<f2")
        rest = array - mean.astype(np.float32) if has_mean else array.copy()
        if is_transformed:
            rest = cosines(num_tokens) @ rest
        index = _largest(rest, scheme.num_outliers(channels))
        outliers = np.take_along_axis(array, index, axis=1).astype("<f2")
        np.put_along_axis(rest, index, 0.0, axis=1)
        scales = _scales(rest, scheme)
        divisors = np.where(scales > 0, scales, np.float16(1)).astype(np.float32)  # values of the scale 0 are all 0
        codes = np.rint(rest / _by_value(divisors, num_tokens, channels, scheme)).astype(np.int8)
    return Quantized(scheme, codes, scales, index, outliers, mean, is_transformed)


def _mean(array: Float32Array) -> npt.NDArray[np.float16]:
    """Mean token, [C], rounded to float32 and then to float16, as torch converts float64 to float16."""
    return np.asarray(array.mean(axis=0, dtype=np.float64).astype(np.float32), "<f2")


def _largest(rest: Float32Array, count: int) -> npt.NDArray[np.intp]:
    """Channels with the largest magnitudes in each token, [R, count], ascending. Of equal ones the lower is taken."""
    if count == 0:
        return np.empty((len(rest), 0), np.intp)
    magnitude = np.abs(rest)
    smallest = np.partition(magnitude, -count, axis=1)[:, -count, None]
    above, equal = magnitude > smallest, magnitude == smallest
    room = count - above.sum(axis=1, keepdims=True)
    return np.nonzero(above | (equal & (equal.cumsum(axis=1) <= room)))[1].reshape(len(rest), count)


def _scales(rest: Float32Array, scheme: Scheme) -> npt.NDArray[np.float16]:
    """Scales, [R, groups] or [1, 1], rounded up so that no code exceeds the limit."""
    magnitude = np.abs(rest)
    if scheme.group < 0:
        largest = magnitude.max(keepdims=True)
    elif scheme.group == 0:
        largest = magnitude.max(axis=1, keepdims=True)
    else:
        largest = np.maximum.reduceat(magnitude, np.arange(0, rest.shape[1], scheme.group), axis=1)
    exact = largest.astype(np.float64) / scheme.limit
    if scheme.step:
        exact = np.maximum(exact, scheme.step * np.sqrt(np.mean(np.square(rest, dtype=np.float64))))
    rounded = exact.astype("<f2")
    return np.asarray(np.where(rounded < exact, np.nextafter(rounded, np.float16(np.inf)), rounded), "<f2")


def _by_value(scales: Float32Array, num_tokens: int, channels: int, scheme: Scheme) -> Float32Array:
    """Scale of each value, [num_tokens, channels]."""
    if scheme.group <= 0:
        return np.broadcast_to(scales, (num_tokens, channels))
    return np.repeat(scales, scheme.group, axis=1)[:, :channels]


def _unpack(data: bytes, count: int, bits: int) -> npt.NDArray[np.int8]:
    if bits == 8:
        return np.frombuffer(data, np.int8)
    pairs = np.frombuffer(data, np.uint8)
    flat = np.stack([pairs & 0xF, pairs >> 4], axis=1).reshape(-1)
    if flat[count:].any():
        raise InvalidRequest("the half byte after the last code is not zero")
    return ((flat[:count] ^ 8).astype(np.int8) - 8).astype(np.int8)


def _inflate(data: bytes, count: int) -> bytes:
    """Inflated data of exactly `count` bytes. At most `count` + 1 bytes are inflated."""
    coder = zlib.decompressobj(-15)
    try:
        codes = coder.decompress(data, count + 1)
    except zlib.error as error:
        raise InvalidRequest("the deflated codes cannot be read") from error
    if len(codes) != count or not coder.eof or coder.unused_data:
        raise InvalidRequest(f"the deflated codes are not exactly the {count} that the shape says")
    return codes


class _Reader:
    """Reader of the sections of a body, one after the other."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._offset = data, start

    def floats(self, *shape: int) -> Float32Array:
        return self._take(shape, "<f2").astype(np.float32)

    def indices(self, *shape: int) -> npt.NDArray[np.int64]:
        return self._take(shape, "<u2").astype(np.int64)

    def rest(self) -> bytes:
        return self._data[self._offset :]

    def _take(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[np.generic]:
        count = int(np.prod(shape))
        end = self._offset + 2 * count
        if end > len(self._data):
            raise InvalidRequest(f"the tensor's data ends before its scales, {len(self._data)} bytes are too few")
        section = np.frombuffer(self._data, dtype, count, self._offset).reshape(shape)
        self._offset = end
        return section


def decode(data: bytes, num_tokens: int, channels: int, bits: int) -> Float32Array:
    """Tokens decoded from a body, [num_tokens, channels].

    The caller must bound `num_tokens * channels` and verify the checksum first.

    Raises:
        InvalidRequest: the body has a layout or values that `encode` never writes.
        CheckpointMismatch: the body has a version that is not known here.
    """
    coding, flags, group, num_outliers = _read_header(data, num_tokens, channels)
    reader = _Reader(data, HEADER.size)
    mean = reader.floats(channels) if flags & HAS_MEAN else np.zeros(channels, np.float32)
    scales = reader.floats(num_tokens, -(-channels // group)) if group else reader.floats(1, 1)
    index, outliers = reader.indices(num_tokens, num_outliers), reader.floats(num_tokens, num_outliers)
    if not all(np.isfinite(part).all() for part in (mean, scales, outliers)) or (scales < 0).any():
        raise InvalidRequest("the tensor's scales, mean or outliers hold NaN, infinity or a negative scale")
    if (index >= channels).any() or (np.diff(index, axis=1) <= 0).any():
        raise InvalidRequest(f"outliers do not name channels below {channels} in ascending order")
    codes = _read_codes(reader.rest(), coding, num_tokens * channels, bits).reshape(num_tokens, channels)
    # In place: a few kilobytes of deflated codes can be gigabytes of values.
    values = codes.astype(np.float32)
    del codes
    if group in (0, channels):
        values *= scales
    else:
        for start in range(0, num_tokens, _SCALED_TOKENS):
            some = slice(start, start + _SCALED_TOKENS)
            values[some] *= np.repeat(scales[some], group, axis=1)[:, :channels]
    if flags & TRANSFORMED:
        values = cosines(num_tokens).T @ values
    values += mean
    np.put_along_axis(values, index, outliers, axis=1)
    return values.astype(np.float32, copy=False)


def _read_header(data: bytes, num_tokens: int, channels: int) -> tuple[int, int, int, int]:
    """Coding, flags, channels per scale and outliers per token from a body's header, which must fit the tensor."""
    if len(data) < HEADER.size:
        raise InvalidRequest(f"a tensor of an integer dtype has a header of {HEADER.size} bytes, not {len(data)}")
    version, coding, flags, reserved, group, num_outliers = HEADER.unpack_from(data)
    if version != VERSION:
        raise CheckpointMismatch(
            f"the tensor has version {version} of the integer wire formats, this service knows {VERSION}; update it"
        )
    if coding not in (PACKED, DEFLATED) or flags & ~(HAS_MEAN | TRANSFORMED) or reserved:
        raise InvalidRequest(f"coding {coding}, flags {flags}, reserved {reserved} are not 0 or 1, 0 to 3, and 0")
    if flags & TRANSFORMED and num_tokens > MAX_TRANSFORMED_TOKENS:
        raise InvalidRequest(f"{num_tokens} tokens are more than the {MAX_TRANSFORMED_TOKENS} that may be transformed")
    if group > channels or num_outliers > channels:
        raise InvalidRequest(f"{group} channels a scale and {num_outliers} outliers do not fit {channels} channels")
    return coding, flags, group, num_outliers


def _read_codes(data: bytes, coding: int, count: int, bits: int) -> npt.NDArray[np.int8]:
    limit = 2 ** (bits - 1) - 1
    if coding == DEFLATED:
        codes = np.frombuffer(_inflate(data, count), np.int8)
    else:
        expected = -(-count * bits // 8)
        if len(data) != expected:
            raise InvalidRequest(f"{count} codes of {bits} bits take {expected} bytes, not {len(data)}")
        codes = _unpack(data, count, bits)
    if (codes < -limit).any() or (codes > limit).any():
        raise InvalidRequest(f"a code is outside -{limit} to {limit}")
    return codes


@dataclass(frozen=True)
class IntegerCodec(Codec):
    """Codec of the wire format of one quantization scheme."""

    scheme: Scheme

    def encode(self, tokens: Float32Array, coding: Coding) -> bytes:
        return quantize(tokens, self.scheme).write(packing=coding.packing)

    def decode(self, data: bytes, num_tokens: int, channels: int, basis: WireBasis | None = None) -> Float32Array:
        return decode(data, num_tokens, channels, self.scheme.bits)

    def expected_bytes(self, num_tokens: int, channels: int, basis: WireBasis | None = None) -> int:
        return expected_bytes(num_tokens, channels, self.scheme)
