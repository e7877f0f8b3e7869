"""Tokens in a learned basis: bodies of the tensors of dtype `basis`. Numpy alone; the layout is docs/wire.md.

Coefficients in the directions of a `WireBasis`, divided by one step, rounded, and coded by how far each is known to
spread. Transform coding as in pictures (Goyal 2001), with a transform learned instead of fixed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from fovea.errors import CheckpointMismatch, InvalidRequest
from fovea.wire import rans
from fovea.wire.basis import DIGEST_BYTES, MAX_CLASS, MAX_SYMBOL, MIN_CLASS, WireBasis, step_size
from fovea.wire.cosine_transform import cosines

__all__ = ["VERSION", "decode", "encode", "expected_bytes", "finest_step", "symbols"]

Float32Array = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

VERSION: Final = 1
_HEADER: Final = struct.Struct(f"<Bb2s{DIGEST_BYTES}sI")  # version, step, 0, basis, exceptions
_EXCEPTION: Final = np.dtype([("index", "<u4"), ("code", "<i4")])
_LARGEST_CODE: Final = 2**30
# A code that its class leaves at 0 is worth an exception's 64 bits from three steps on.
_UNCODED: Final = 2
# Rounds at 0.6 instead of 0.5 of a step: a tenth fewer bytes for a tenth of a decibel (benchmarks/LOG.md).
_ROUNDING: Final = 0.4


class _Plan:
    """What the levels and the step say of each of the R * C codes, in their order.

    Attributes:
        is_coded: [R, C]; the others are 0.
        table: [n] of each coded one.
        low_bits: [n] that travel as they are.
    """

    def __init__(self, basis: WireBasis, rows: int, step: int) -> None:
        classes = basis.levels(rows) - step
        self.is_coded = classes >= MIN_CLASS
        coded = classes[self.is_coded]
        self.low_bits = np.maximum(0, -((MAX_CLASS - coded) // 4))
        self.table = coded - 4 * self.low_bits - MIN_CLASS

    @property
    def half(self) -> Ints:
        """[n] half of what the low bits count; added before they are split off, so that what is left lies around 0."""
        return (1 << self.low_bits) >> 1


def encode(array: Float32Array, basis: WireBasis, step: int) -> bytes:
    """The body of a tensor.

    Args:
        array: [R, C] finite numbers.
        basis: Of C channels.
        step: `basis.finest` to `basis.coarsest`.

    Raises:
        InvalidRequest: Other channels, or a value beyond all that the step can count.
    """
    codes = _codes(_coefficients(array, basis), step)
    plan = _Plan(basis, len(array), step)
    low, symbols, exceptions = _split(codes, plan)
    header = _HEADER.pack(VERSION, step, bytes(2), basis.digest, len(exceptions))
    stream = rans.encode(symbols + MAX_SYMBOL, plan.table, basis.tables)
    return b"".join((header, exceptions.tobytes(), _pack(low, plan.low_bits), stream))


def decode(data: bytes, rows: int, channels: int, basis: WireBasis) -> Float32Array:
    """[rows, channels] of what `encode` wrote. The caller has bounded `rows * channels` and checked the checksum.

    Raises:
        InvalidRequest: Not of this layout.
        CheckpointMismatch: Of another basis.
    """
    if len(data) < _HEADER.size:
        raise InvalidRequest(f"a tensor of dtype basis has a header of {_HEADER.size} bytes, not {len(data)}")
    version, step, reserved, digest, num_exceptions = _HEADER.unpack_from(data)
    if version != VERSION or any(reserved):
        raise InvalidRequest(f"version {version}, reserved {reserved.hex()} of dtype basis are not {VERSION} and 0")
    if digest != basis.digest:
        raise CheckpointMismatch(
            f"the tensor is written in the wire basis {digest.hex()}, this service has {basis.digest.hex()};"
            " both services must load the same file"
        )
    if channels != basis.channels:
        raise InvalidRequest(f"{channels} channels; the wire basis has {basis.channels}")
    if not basis.finest <= step <= basis.coarsest:
        raise InvalidRequest(f"step {step} is not {basis.finest} to {basis.coarsest}")
    plan = _Plan(basis, rows, step)
    low_at = _HEADER.size + _EXCEPTION.itemsize * num_exceptions
    stream_at = low_at + -(-int(plan.low_bits.sum()) // 8)
    if stream_at > len(data):
        raise InvalidRequest(f"the tensor's data ends before its codes, {len(data)} bytes are too few")
    exceptions = np.frombuffer(data, _EXCEPTION, num_exceptions, _HEADER.size)
    index = exceptions["index"].astype(np.int64)
    if (index >= rows * channels).any() or (np.diff(index) <= 0).any():
        raise InvalidRequest(f"exceptions do not name codes below {rows * channels} in ascending order")
    low = _unpack(data[low_at:stream_at], plan.low_bits)
    symbols = rans.decode(data[stream_at:], plan.table, basis.tables) - MAX_SYMBOL
    codes = np.zeros((rows, channels), np.float32)
    codes[plan.is_coded] = (symbols << plan.low_bits) + low - plan.half
    codes.reshape(-1)[index] = exceptions["code"]
    values = codes * np.float32(step_size(step))
    if rows == basis.rows:
        values = cosines(rows).T @ values
    return np.asarray(values @ basis.synthesis + basis.mean, np.float32)


def symbols(array: Float32Array, basis: WireBasis, step: int) -> tuple[Ints, Ints]:
    """[n] tables and [n] symbols, from 0, that `encode` would code; what tables are learned from."""
    plan = _Plan(basis, len(array), step)
    return plan.table, _split(_codes(_coefficients(array, basis), step), plan)[1] + MAX_SYMBOL


def expected_bytes(rows: int, basis: WireBasis, step: int) -> int:
    """Bytes that `encode` makes of [rows, C] from a picture like those that the basis was learned from."""
    times, plan = (1, _Plan(basis, rows, step)) if rows == basis.rows else (rows, _Plan(basis, 1, step))
    bits = times * float((basis.tables.entropy[plan.table] + plan.low_bits).sum())
    return _HEADER.size + math.ceil(bits / 8) + _overhead(times * len(plan.table))


def finest_step(arrays: Sequence[Float32Array], basis: WireBasis, max_bytes: int) -> int:
    """The least step with which the bodies of all arrays take about `max_bytes` together; the coarsest if none does.

    Raises:
        InvalidRequest: See `encode`.
    """
    coefficients = [_coefficients(array, basis) for array in arrays]

    def fits(step: int) -> bool:
        return sum(_size(one, basis, step) for one in coefficients) <= max_bytes

    low, high = basis.finest - 1, basis.coarsest  # `low` is too fine
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _size(coefficients: Float32Array, basis: WireBasis, step: int) -> int:
    plan = _Plan(basis, len(coefficients), step)
    _, symbols, exceptions = _split(_codes(coefficients, step), plan)
    bits = float(basis.tables.bits[plan.table, symbols + MAX_SYMBOL].sum()) + int(plan.low_bits.sum())
    return _HEADER.size + len(exceptions) * _EXCEPTION.itemsize + math.ceil(bits / 8) + _overhead(len(plan.table))


def _overhead(num_symbols: int) -> int:
    """Of a stream: of a state's 4 bytes about half are symbols."""
    return 3 * rans.num_states(num_symbols)


def _coefficients(array: Float32Array, basis: WireBasis) -> Float32Array:
    if array.shape[1] != basis.channels:
        raise InvalidRequest(f"{array.shape[1]} channels; the wire basis has {basis.channels}")
    with np.errstate(over="ignore", invalid="ignore"):  # looked at in `_codes`
        values = (array - basis.mean) @ basis.analysis
        return np.asarray(cosines(len(array)) @ values if len(array) == basis.rows else values, np.float32)


def _codes(coefficients: Float32Array, step: int) -> Ints:
    """[R, C] whole numbers of steps."""
    steps = np.abs(coefficients) / np.float32(step_size(step))
    if not (steps < _LARGEST_CODE).all():  # also of NaN
        raise InvalidRequest("a value is too large for the wire basis")
    return np.copysign(np.floor(steps + _ROUNDING), coefficients).astype(np.int64)


def _split(codes: Ints, plan: _Plan) -> tuple[Ints, Ints, npt.NDArray[np.void]]:
    """Low bits [n], symbols [n] of -MAX_SYMBOL to MAX_SYMBOL, and what does not fit them, which is 0 there."""
    codes = codes.copy()
    high = (codes[plan.is_coded] + plan.half) >> plan.low_bits
    is_exception = ~plan.is_coded & (np.abs(codes) > _UNCODED)
    is_exception[plan.is_coded] = np.abs(high) > MAX_SYMBOL
    index = is_exception.reshape(-1).nonzero()[0]
    exceptions = np.empty(len(index), _EXCEPTION)
    exceptions["index"], exceptions["code"] = index, codes.reshape(-1)[index]
    codes.reshape(-1)[index] = 0
    moved = codes[plan.is_coded] + plan.half
    return moved & ((1 << plan.low_bits) - 1), moved >> plan.low_bits, exceptions


def _pack(low: Ints, low_bits: Ints) -> bytes:
    """Plane by plane, the lowest bits first; a byte's first bit is its highest."""
    planes = [low[low_bits > bit] >> bit & 1 for bit in range(low_bits.max(initial=0))]
    return np.packbits(np.concatenate([*planes, np.empty(0, np.int64)]).astype(np.uint8)).tobytes()


def _unpack(data: bytes, low_bits: Ints) -> Ints:
    total = int(low_bits.sum())
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).astype(np.int64)
    if bits[total:].any():
        raise InvalidRequest("the bits after the last low bit are not zero")
    low, at = np.zeros(len(low_bits), np.int64), 0
    for bit in range(low_bits.max(initial=0)):
        has = low_bits > bit
        count = int(has.sum())
        low[has] |= bits[at : at + count] << bit
        at += count
    return low
