"""Tokens as small integers: bodies of the tensors of integer dtypes. Numpy and zlib alone; the layout is docs/wire.md.

Each value is mean[channel] + scale[row, group] * code. Codes are packed to the bit or Huffman-coded, whichever is
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
_HEADER: Final = struct.Struct("<BBBBHH")  # version, coding, flags, 0, channels a scale, outliers a row
_MAX_CHANNELS: Final = 65535
# The mean token costs 16 bits a channel and saves each row about a quarter of a bit (benchmarks/LOG.md).
_MEAN_PAYS_ROWS: Final = 96


@dataclass(frozen=True)
class Scheme:
    """How the numbers of one integer dtype are made.

    Attributes:
        bits: Of a code; codes are -limit to limit with limit = 2 ** (bits - 1) - 1.
        group: Channels that share a scale: a number, 0 for the whole row, or -1 for all rows.
        outliers_per: One value a row travels by itself for every so many channels, at least one; 0 for none.
        step: Scale as a multiple of the root mean square, where larger than what the range needs; 0 for the latter.
        subtracts_mean: With many rows the mean token is sent once and the codes are of what remains.
        transforms: With a mean, a cosine transform runs along the rows: neighbours in a picture are alike.
        coded_bits: Bits a value to reckon with where Huffman coding is what makes it small; 0: `bits`.
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
# A uniform quantiser with one step for all channels and Huffman-coded codes: near the best that can be had at these
# rates (Gish & Pierce 1968), where loud channels get more bits than quiet ones by themselves. With this step a
# Gaussian has 2.46 bits of entropy, and what has heavier tails less.
ENTROPY: Final = Scheme(bits=8, group=-1, step=0.75, subtracts_mean=True, transforms=True, coded_bits=2.6)
_HUFFMAN_TABLE_BYTES: Final = 96


def expected_bytes(rows: int, channels: int, scheme: Scheme) -> int:
    """Bytes that `encode` makes of [rows, channels]: at most these; of ENTROPY, what to reckon with."""
    scales, outliers, mean = _sections(rows, channels, scheme)
    side = _HEADER.size + 2 * scales + 4 * outliers * rows + 2 * channels * mean
    codes = math.ceil(rows * channels * scheme.bits / 8)
    if scheme.coded_bits:
        codes = min(codes, math.ceil(rows * channels * scheme.coded_bits / 8) + _HUFFMAN_TABLE_BYTES)
    return side + codes


def _sections(rows: int, channels: int, scheme: Scheme) -> tuple[int, int, bool]:
    """Scales, outliers a row, whether there is a mean."""
    groups = 1 if scheme.group <= 0 else -(-channels // scheme.group)
    scales = 1 if scheme.group < 0 else rows * groups
    outliers = max(1, channels // scheme.outliers_per) if scheme.outliers_per and channels > scheme.group else 0
    return scales, outliers, scheme.subtracts_mean and rows >= _MEAN_PAYS_ROWS


def encode(array: Float32Array, scheme: Scheme, *, packing: Packing = "shorter") -> bytes:
    """The body of a tensor.

    The error of a value is at most half its scale and, with a mean or as an outlier, a rounding to float16. With a
    transform half the scale bounds the root mean square of each channel's errors instead.

    Args:
        array: [R, C] finite numbers.
        scheme: What to make of them.
        packing: `packed` leaves the Huffman coding out.

    Raises:
        InvalidRequest: More than 65,535 channels, or a value so large that float16 cannot hold its scale.
    """
    rows, channels = array.shape
    if channels > _MAX_CHANNELS:
        raise InvalidRequest(f"{channels} channels; integer dtypes take up to {_MAX_CHANNELS}")
    _, num_outliers, has_mean = _sections(rows, channels, scheme)
    with np.errstate(over="ignore"):
        mean = array.mean(axis=0, dtype=np.float64).astype("<f2") if has_mean else np.zeros(channels, "<f2")
        rest = array - mean.astype(np.float32)
        is_transformed = scheme.transforms and has_mean and rows <= MAX_TRANSFORMED_TOKENS
        if is_transformed:
            rest = cosines(rows) @ rest
        index = _largest(rest, num_outliers)
        outliers = np.take_along_axis(array, index, axis=1).astype("<f2")
        np.put_along_axis(rest, index, 0.0, axis=1)
        scales = _scales(rest, scheme)
        if not all(np.isfinite(part).all() for part in (mean, outliers, scales)):
            raise InvalidRequest("a value is too large for the scales of this dtype, which are float16")
        wide = _by_value(scales.astype(np.float32), rows, channels, scheme)
        codes = np.rint(np.divide(rest, wide, out=np.zeros_like(rest), where=wide > 0)).astype(np.int8)
    header_group = {0: channels, -1: 0}.get(scheme.group, min(scheme.group, channels))
    packed = _pack(codes, scheme.bits)
    deflated = _deflate(codes) if packing == "shorter" else packed
    is_shorter = len(deflated) < len(packed)
    return b"".join(
        (
            _HEADER.pack(
                VERSION,
                _DEFLATED if is_shorter else _PACKED,
                _HAS_MEAN * has_mean | _TRANSFORMED * is_transformed,
                0,
                header_group,
                num_outliers,
            ),
            mean.tobytes() if has_mean else b"",
            scales.tobytes(),
            index.astype("<u2").tobytes(),
            outliers.tobytes(),
            deflated if is_shorter else packed,
        )
    )


def _largest(rest: Float32Array, count: int) -> npt.NDArray[np.intp]:
    """[R, count] channels of the largest magnitudes of each row, ascending."""
    if count == 0:
        return np.empty((len(rest), 0), np.intp)
    return np.sort(np.argpartition(-np.abs(rest), count - 1, axis=1)[:, :count], axis=1)


def _scales(rest: Float32Array, scheme: Scheme) -> npt.NDArray[np.float16]:
    """[rows, groups] or [1, 1], rounded up so that no code passes the limit."""
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


def _by_value(scales: Float32Array, rows: int, channels: int, scheme: Scheme) -> Float32Array:
    """The scale of each value, [rows, channels]."""
    if scheme.group <= 0:
        return np.broadcast_to(scales, (rows, channels))
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
    # Huffman only: repeats are chance here, and looking for them makes the result longer and slower.
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(codes.tobytes()) + coder.flush()


def _inflate(data: bytes, count: int) -> bytes:
    """Exactly `count` bytes; never holds more than one beyond."""
    coder = zlib.decompressobj(-15)
    try:
        codes = coder.decompress(data, count + 1)
    except zlib.error as error:
        raise InvalidRequest("the deflated codes cannot be read") from error
    if len(codes) != count or not coder.eof or coder.unused_data:
        raise InvalidRequest(f"the deflated codes are not exactly the {count} that the shape says")
    return codes


class _Reader:
    """Sections of a body, one after the other."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._at = data, start

    def floats(self, *shape: int) -> Float32Array:
        return self._take(shape, "<f2").astype(np.float32)

    def indices(self, *shape: int) -> npt.NDArray[np.int64]:
        return self._take(shape, "<u2").astype(np.int64)

    def rest(self) -> bytes:
        return self._data[self._at :]

    def _take(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[np.generic]:
        count = int(np.prod(shape))
        end = self._at + 2 * count
        if end > len(self._data):
            raise InvalidRequest(f"the tensor's data ends before its scales, {len(self._data)} bytes are too few")
        part = np.frombuffer(self._data, dtype, count, self._at).reshape(shape)
        self._at = end
        return part


def decode(data: bytes, rows: int, channels: int, bits: int) -> Float32Array:
    """[rows, channels] of what `encode` wrote. The caller has bounded `rows * channels` and checked the checksum.

    Raises:
        InvalidRequest: The body is not of this layout, or holds what `encode` never writes.
    """
    if len(data) < _HEADER.size:
        raise InvalidRequest(f"a tensor of an integer dtype has a header of {_HEADER.size} bytes, not {len(data)}")
    version, coding, flags, reserved, group, num_outliers = _HEADER.unpack_from(data)
    if version != VERSION:
        raise InvalidRequest(f"version {version} of the codec is not known; {VERSION} is")
    if coding not in (_PACKED, _DEFLATED) or flags & ~(_HAS_MEAN | _TRANSFORMED) or reserved:
        raise InvalidRequest(f"coding {coding}, flags {flags}, reserved {reserved} are not 0 or 1, 0 to 3, and 0")
    if flags & _TRANSFORMED and rows > MAX_TRANSFORMED_TOKENS:
        raise InvalidRequest(f"{rows} rows are more than the {MAX_TRANSFORMED_TOKENS} that may be transformed")
    if group > channels or num_outliers > channels:
        raise InvalidRequest(f"{group} channels a scale and {num_outliers} outliers do not fit {channels} channels")
    reader = _Reader(data, _HEADER.size)
    mean = reader.floats(channels) if flags & _HAS_MEAN else np.zeros(channels, np.float32)
    scales = reader.floats(rows, -(-channels // group)) if group else reader.floats(1, 1)
    index, outliers = reader.indices(rows, num_outliers), reader.floats(rows, num_outliers)
    if not all(np.isfinite(part).all() for part in (mean, scales, outliers)) or (scales < 0).any():
        raise InvalidRequest("the tensor's scales, mean or outliers hold NaN, infinity or a negative scale")
    if (index >= channels).any() or (np.diff(index, axis=1) <= 0).any():
        raise InvalidRequest(f"outliers do not name channels below {channels} in ascending order")
    codes = _read_codes(reader.rest(), coding, rows * channels, bits).reshape(rows, channels)
    wide = np.repeat(scales, group, axis=1)[:, :channels] if group else scales
    values = wide * codes.astype(np.float32)
    if flags & _TRANSFORMED:
        values = cosines(rows).T @ values
    values = values + mean
    np.put_along_axis(values, index, outliers, axis=1)
    return values.astype(np.float32, copy=False)


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
