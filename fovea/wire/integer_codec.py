"""Codec of the integer wire formats, which store small integer codes. The layout is in docs/wire.md.

A value is mean[channel] + scale[token, group] * code. Codes are packed to the bit or Huffman-coded, whichever is
shorter.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from fovea.errors import InvalidRequest
from fovea.wire.cosine_transform import MAX_TRANSFORMED_TOKENS, cosines

__all__ = ["ENTROPY", "INT4", "INT8", "VERSION", "Packing", "Scheme", "decode", "encode", "expected_bytes"]

Float32Array = npt.NDArray[np.float32]
Packing = Literal["packed", "shorter"]

VERSION: Final = 1
_PACKED: Final = 0
_DEFLATED: Final = 1
_HAS_MEAN: Final = 1
_TRANSFORMED: Final = 2
_HEADER: Final = struct.Struct("<BBBBHH")  # version, coding, flags, reserved, channels per scale, outliers per token
_MAX_CHANNELS: Final = 65535
# The mean token costs 16 bits per channel and saves about a quarter of a bit per value (benchmarks/LOG.md).
_MIN_TOKENS_FOR_MEAN: Final = 96


@dataclass(frozen=True)
class Scheme:
    """Quantization of one integer dtype.

    Attributes:
        bits: number of bits of a code; codes are -limit to limit with limit = 2 ** (bits - 1) - 1.
        group: number of channels that share a scale; 0 for all channels of a token, -1 for the whole tensor.
        outliers_per: number of channels per outlier, a value that is sent as float16; 0 for no outliers.
        step: lower limit of the scale as a multiple of the root mean square of the values; 0 for none.
        subtracts_mean: whether the mean of many tokens is sent once and subtracted from each.
        transforms: whether a cosine transform along the tokens follows, since neighboring tokens are similar.
        coded_bits: expected number of bits of a Huffman-coded code; if 0, `bits` is expected.
    """

    bits: int
    group: int
    outliers_per: int = 0
    step: float = 0.0
    subtracts_mean: bool = False
    transforms: bool = False
    coded_bits: float = 0.0

    @property
    def limit(self) -> int:
        """Largest code."""
        return int(2 ** (self.bits - 1) - 1)


INT8: Final = Scheme(bits=8, group=0)
INT4: Final = Scheme(bits=4, group=64, outliers_per=256, subtracts_mean=True)
# A uniform quantizer with one step for all channels and Huffman-coded codes is close to the optimum at these rates
# (Gish & Pierce 1968): channels of high variance take more bits by themselves. With this step a Gaussian
# channel has 2.46 bits of entropy, and a channel with heavier tails has less.
ENTROPY: Final = Scheme(bits=8, group=-1, step=0.75, subtracts_mean=True, transforms=True, coded_bits=2.6)
_HUFFMAN_TABLE_BYTES: Final = 96


def expected_bytes(num_tokens: int, channels: int, scheme: Scheme) -> int:
    """Upper limit of the bytes of the body of a [num_tokens, channels] tensor; for ENTROPY an estimate."""
    scales, outliers, has_mean = _sections(num_tokens, channels, scheme)
    side_bytes = _HEADER.size + 2 * scales + 4 * outliers * num_tokens + 2 * channels * has_mean
    code_bytes = math.ceil(num_tokens * channels * scheme.bits / 8)
    if scheme.coded_bits:
        coded_bytes = math.ceil(num_tokens * channels * scheme.coded_bits / 8) + _HUFFMAN_TABLE_BYTES
        code_bytes = min(code_bytes, coded_bytes)
    return side_bytes + code_bytes


def _sections(num_tokens: int, channels: int, scheme: Scheme) -> tuple[int, int, bool]:
    """Number of scales, number of outliers per token, and whether there is a mean."""
    groups = 1 if scheme.group <= 0 else -(-channels // scheme.group)
    scales = 1 if scheme.group < 0 else num_tokens * groups
    outliers = max(1, channels // scheme.outliers_per) if scheme.outliers_per and channels > scheme.group else 0
    return scales, outliers, scheme.subtracts_mean and num_tokens >= _MIN_TOKENS_FOR_MEAN


@dataclass(frozen=True)
class _Quantized:
    """Quantized tensor of R tokens and C channels: the sections of a body.

    Attributes:
        mean: mean token, [C]; empty if none is sent.
        scales: scale of each group, [R, groups] or [1, 1].
        outlier_channels: channels of the outliers, [R, M], ascending in each token.
        outliers: values of the outliers, [R, M].
        codes: codes of all values, [R, C]; 0 for outliers.
        is_transformed: whether the codes are those of the cosine transform along the tokens.
    """

    mean: npt.NDArray[np.float16]
    scales: npt.NDArray[np.float16]
    outlier_channels: npt.NDArray[np.intp]
    outliers: npt.NDArray[np.float16]
    codes: npt.NDArray[np.int8]
    is_transformed: bool


def encode(array: Float32Array, scheme: Scheme, *, packing: Packing = "shorter") -> bytes:
    """Body of a tensor: the bytes of `Tensor.data`.

    The error of a value is at most half its scale, plus the rounding of a mean or an outlier to float16. With a
    transform, half the scale limits the root mean square of the errors of each channel instead.

    Args:
        array: finite tokens, [R, C].
        scheme: quantization.
        packing: `shorter` for Huffman coding if it needs fewer bytes, `packed` for no Huffman coding.

    Raises:
        InvalidRequest: there are more than 65,535 channels, or a value is too large for a scale in float16.
    """
    channels = array.shape[1]
    if channels > _MAX_CHANNELS:
        raise InvalidRequest(f"{channels} channels; integer dtypes take up to {_MAX_CHANNELS}")
    quantized = _quantize(array, scheme)
    group = {0: channels, -1: 0}.get(scheme.group, min(scheme.group, channels))
    coding, codes = _PACKED, _pack(quantized.codes, scheme.bits)
    if packing == "shorter":
        deflated = _deflate(quantized.codes)
        if len(deflated) < len(codes):
            coding, codes = _DEFLATED, deflated
    flags = _HAS_MEAN * (quantized.mean.size > 0) | _TRANSFORMED * quantized.is_transformed
    header = _HEADER.pack(VERSION, coding, flags, 0, group, quantized.outliers.shape[1])
    outlier_channels = quantized.outlier_channels.astype("<u2")
    arrays = (quantized.mean, quantized.scales, outlier_channels, quantized.outliers)
    return b"".join((header, *(part.tobytes() for part in arrays), codes))


def _quantize(array: Float32Array, scheme: Scheme) -> _Quantized:
    num_tokens, channels = array.shape
    _, num_outliers, has_mean = _sections(num_tokens, channels, scheme)
    is_transformed = scheme.transforms and has_mean and num_tokens <= MAX_TRANSFORMED_TOKENS
    with np.errstate(over="ignore"):
        mean = array.mean(axis=0, dtype=np.float64).astype("<f2") if has_mean else np.zeros(channels, "<f2")
        rest = array - mean.astype(np.float32)
        if is_transformed:
            rest = cosines(num_tokens) @ rest
        index = _largest(rest, num_outliers)
        outliers = np.take_along_axis(array, index, axis=1).astype("<f2")
        np.put_along_axis(rest, index, 0.0, axis=1)
        scales = _scales(rest, scheme)
        if not all(np.isfinite(part).all() for part in (mean, outliers, scales)):
            raise InvalidRequest("a value is too large for the scales of this dtype, which are float16")
        scale_of_value = _by_value(scales.astype(np.float32), num_tokens, channels, scheme)
        exact_codes = np.divide(rest, scale_of_value, out=np.zeros_like(rest), where=scale_of_value > 0)
        codes = np.rint(exact_codes).astype(np.int8)
    return _Quantized(mean if has_mean else mean[:0], scales, index, outliers, codes, is_transformed)


def _largest(rest: Float32Array, count: int) -> npt.NDArray[np.intp]:
    """Channels with the largest magnitudes in each token, [R, count], ascending."""
    if count == 0:
        return np.empty((len(rest), 0), np.intp)
    return np.sort(np.argpartition(-np.abs(rest), count - 1, axis=1)[:, :count], axis=1)


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


def _pack(codes: npt.NDArray[np.int8], bits: int) -> bytes:
    if bits == 8:
        return codes.tobytes()
    flat = np.append(codes.reshape(-1), np.zeros(codes.size % 2, np.int8)).view(np.uint8) & 0xF
    return ((flat[1::2] << 4) | flat[::2]).tobytes()


def _unpack(data: bytes, count: int, bits: int) -> npt.NDArray[np.int8]:
    if bits == 8:
        return np.frombuffer(data, np.int8)
    pairs = np.frombuffer(data, np.uint8)
    flat = np.stack([pairs & 0xF, pairs >> 4], axis=1).reshape(-1)
    if flat[count:].any():
        raise InvalidRequest("the half byte after the last code is not zero")
    return ((flat[:count] ^ 8).astype(np.int8) - 8).astype(np.int8)


def _deflate(codes: npt.NDArray[np.int8]) -> bytes:
    # Huffman coding only: repeats occur by chance here, and a search for them makes the result longer and takes time.
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(codes.tobytes()) + coder.flush()


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
    """
    coding, flags, group, num_outliers = _read_header(data, num_tokens, channels)
    reader = _Reader(data, _HEADER.size)
    mean = reader.floats(channels) if flags & _HAS_MEAN else np.zeros(channels, np.float32)
    scales = reader.floats(num_tokens, -(-channels // group)) if group else reader.floats(1, 1)
    index, outliers = reader.indices(num_tokens, num_outliers), reader.floats(num_tokens, num_outliers)
    if not all(np.isfinite(part).all() for part in (mean, scales, outliers)) or (scales < 0).any():
        raise InvalidRequest("the tensor's scales, mean or outliers hold NaN, infinity or a negative scale")
    if (index >= channels).any() or (np.diff(index, axis=1) <= 0).any():
        raise InvalidRequest(f"outliers do not name channels below {channels} in ascending order")
    codes = _read_codes(reader.rest(), coding, num_tokens * channels, bits).reshape(num_tokens, channels)
    scale_of_value = np.repeat(scales, group, axis=1)[:, :channels] if group else scales
    values = scale_of_value * codes.astype(np.float32)
    if flags & _TRANSFORMED:
        values = cosines(num_tokens).T @ values
    values = values + mean
    np.put_along_axis(values, index, outliers, axis=1)
    return values.astype(np.float32, copy=False)


def _read_header(data: bytes, num_tokens: int, channels: int) -> tuple[int, int, int, int]:
    """Coding, flags, channels per scale and outliers per token from a body's header, which must fit the tensor."""
    if len(data) < _HEADER.size:
        raise InvalidRequest(f"a tensor of an integer dtype has a header of {_HEADER.size} bytes, not {len(data)}")
    version, coding, flags, reserved, group, num_outliers = _HEADER.unpack_from(data)
    if version != VERSION:
        raise InvalidRequest(f"version {version} of the codec is not known; {VERSION} is")
    if coding not in (_PACKED, _DEFLATED) or flags & ~(_HAS_MEAN | _TRANSFORMED) or reserved:
        raise InvalidRequest(f"coding {coding}, flags {flags}, reserved {reserved} are not 0 or 1, 0 to 3, and 0")
    if flags & _TRANSFORMED and num_tokens > MAX_TRANSFORMED_TOKENS:
        raise InvalidRequest(f"{num_tokens} tokens are more than the {MAX_TRANSFORMED_TOKENS} that may be transformed")
    if group > channels or num_outliers > channels:
        raise InvalidRequest(f"{group} channels a scale and {num_outliers} outliers do not fit {channels} channels")
    return coding, flags, group, num_outliers


def _read_codes(data: bytes, coding: int, count: int, bits: int) -> npt.NDArray[np.int8]:
    limit = 2 ** (bits - 1) - 1
    if coding == _DEFLATED:
        codes = np.frombuffer(_inflate(data, count), np.int8)
    else:
        expected = -(-count * bits // 8)
        if len(data) != expected:
            raise InvalidRequest(f"{count} codes of {bits} bits take {expected} bytes, not {len(data)}")
        codes = _unpack(data, count, bits)
    if (codes < -limit).any() or (codes > limit).any():
        raise InvalidRequest(f"a code is outside -{limit} to {limit}")
    return codes
