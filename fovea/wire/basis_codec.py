"""Codec of the wire format `basis`, which stores tokens in a learned basis. The layout is in docs/wire.md.

A token is transformed to coefficients in the directions of a `WireBasis`. The coefficients are divided by one step,
rounded to integer codes, and entropy-coded. The spread of a coefficient, which the basis records, selects its frequency
table. This is transform coding (Goyal 2001), as in image compression, with a learned transform instead of a fixed one.
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
from fovea.wire.codec import Codec, Coding, Float32Array
from fovea.wire.cosine_transform import cosines

__all__ = ["VERSION", "BasisCodec", "decode", "encode", "expected_bytes", "finest_step", "symbols"]

Codes = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]

VERSION: Final = 1
_HEADER: Final = struct.Struct(
    f"<Bb2s{DIGEST_BYTES}sI"
)  # version, step, reserved, digest of the basis, number of exceptions
_EXCEPTION: Final = np.dtype([("index", "<u4"), ("code", "<i4")])
_LARGEST_CODE: Final = 2**30
# Codes of the classes that are not coded are dropped up to this magnitude. Dropping a larger code would cause an error
# that is worth the 64 bits of an exception.
_MAX_DROPPED_CODE: Final = 2
# Codes are rounded up from 0.6 of a step instead of 0.5, which saves bytes for little noise (benchmarks/LOG.md).
_ROUNDING: Final = 0.4
# Quarter octaves by which the step of an unpruned image may exceed the default before tokens are dropped. For a pruned
# image, tokens are dropped first (docs/wire.md).
_MAX_COARSER_STEPS: Final = 4


class _CodingPlan:
    """Coding of the R * C codes of a tensor. It follows from the levels of the basis and the step.

    Attributes:
        index: index r * C + c of each code in the stream, ascending, [n]; the other codes are 0 or exceptions.
        table: index of the frequency table of each code in the stream, [n].
        low_bits: number of low bits of each code in the stream, which are stored without entropy coding, [n].
    """

    def __init__(self, basis: WireBasis, num_tokens: int, step: int) -> None:
        is_whole = num_tokens == basis.tokens_per_image
        classes = (basis.image_levels if is_whole else basis.token_levels).reshape(-1) - step
        coded = np.flatnonzero(classes >= MIN_CLASS)
        low_bits = np.maximum(0, -((MAX_CLASS - classes[coded]) // 4))
        table = classes[coded] - 4 * low_bits - MIN_CLASS
        # Tokens that are not a whole image are all coded alike: the plan of one, repeated.
        repeats = 1 if is_whole else num_tokens
        self.index = (np.arange(repeats)[:, None] * len(classes) + coded).reshape(-1)
        self.table = np.tile(table.astype(np.uint8), repeats)
        self.low_bits = np.tile(low_bits.astype(np.uint8), repeats)

    @property
    def half(self) -> Codes:
        """Half of the range of each code's low bits, [n]. It is added before the split, so that symbols center on 0."""
        return (np.int32(1) << self.low_bits) >> 1


def encode(array: Float32Array, basis: WireBasis, step: int) -> bytes:
    """Body of a tensor: the bytes of `Tensor.data`.

    Args:
        array: finite tokens, [R, C].
        basis: basis of C channels.
        step: step from `basis.finest` to `basis.coarsest`.

    Raises:
        InvalidRequest: the number of channels is not that of the basis, or a value is too large for the step.
    """
    codes = _codes(_coefficients(array, basis), step)
    plan = _CodingPlan(basis, len(array), step)
    low, symbols, exceptions = _split(codes, plan)
    header = _HEADER.pack(VERSION, step, bytes(2), basis.digest, len(exceptions))
    stream = rans.encode(symbols, plan.table, basis.tables)
    return b"".join((header, exceptions.tobytes(), _pack(low, plan.low_bits), stream))


def decode(data: bytes, num_tokens: int, channels: int, basis: WireBasis) -> Float32Array:
    """Tokens decoded from a body, [num_tokens, channels].

    The caller must bound `num_tokens * channels` and verify the checksum first.

    Raises:
        InvalidRequest: the body does not have the layout that `encode` writes.
        CheckpointMismatch: the body was written in another basis, or has a version that is not known here.
    """
    step, num_exceptions = _read_header(data, channels, basis)
    plan = _CodingPlan(basis, num_tokens, step)
    low_bits_start = _HEADER.size + _EXCEPTION.itemsize * num_exceptions
    stream_start = low_bits_start + -(-int(plan.low_bits.sum()) // 8)
    if stream_start > len(data):
        raise InvalidRequest(f"the tensor's data ends before its codes, {len(data)} bytes are too few")
    exceptions = np.frombuffer(data, _EXCEPTION, num_exceptions, _HEADER.size)
    index = exceptions["index"].astype(np.int64)
    if (index >= num_tokens * channels).any() or (np.diff(index) <= 0).any():
        raise InvalidRequest(f"exceptions do not name codes below {num_tokens * channels} in ascending order")
    low = _unpack(data[low_bits_start:stream_start], plan.low_bits)
    symbols = rans.decode(data[stream_start:], plan.table, basis.tables).astype(np.int32) - MAX_SYMBOL
    codes = np.zeros(num_tokens * channels, np.float32)
    codes[plan.index] = (symbols << plan.low_bits) + low - plan.half
    codes[index] = exceptions["code"]
    codes *= np.float32(step_size(step))
    values = codes.reshape(num_tokens, channels)
    if num_tokens == basis.tokens_per_image:
        values = cosines(num_tokens).T @ values
    return np.asarray(values @ basis.synthesis + basis.mean, np.float32)


def _read_header(data: bytes, channels: int, basis: WireBasis) -> tuple[int, int]:
    """Step and number of exceptions from a body's header, which is checked against the tensor and the basis."""
    if len(data) < _HEADER.size:
        raise InvalidRequest(f"a tensor of dtype basis has a header of {_HEADER.size} bytes, not {len(data)}")
    version, step, reserved, digest, num_exceptions = _HEADER.unpack_from(data)
    if version != VERSION:
        raise CheckpointMismatch(
            f"the tensor has version {version} of dtype basis, this service knows {VERSION}; update it"
        )
    if any(reserved):
        raise InvalidRequest(f"reserved {reserved.hex()} of dtype basis is not 0")
    if digest != basis.digest:
        raise CheckpointMismatch(
            f"the tensor is written in the wire basis {digest.hex()}, this service has {basis.digest.hex()};"
            " both services must load the same file"
        )
    if channels != basis.channels:
        raise InvalidRequest(f"{channels} channels; the wire basis has {basis.channels}")
    if not basis.finest <= step <= basis.coarsest:
        raise InvalidRequest(f"step {step} is not {basis.finest} to {basis.coarsest}")
    return step, num_exceptions


def symbols(array: Float32Array, basis: WireBasis, step: int) -> tuple[Bytes, Bytes]:
    """Table index [n] and symbol [n], both from 0, of each code in the stream. They are used to learn the tables."""
    plan = _CodingPlan(basis, len(array), step)
    return plan.table, _split(_codes(_coefficients(array, basis), step), plan)[1]


def expected_bytes(num_tokens: int, basis: WireBasis, step: int) -> int:
    """Expected bytes of a body of `num_tokens` tokens, for an image like those that the basis was learned from."""
    if num_tokens == basis.tokens_per_image:
        repeats, plan = 1, _CodingPlan(basis, num_tokens, step)
    else:
        repeats, plan = num_tokens, _CodingPlan(basis, 1, step)
    bits = repeats * float((basis.tables.entropy[plan.table] + plan.low_bits).sum())
    return _HEADER.size + math.ceil(bits / 8) + _stream_overhead(repeats * len(plan.table))


def finest_step(arrays: Sequence[Float32Array], basis: WireBasis, max_bytes: int) -> int:
    """Smallest step with which the estimated bytes of all bodies are at most `max_bytes`; the coarsest if none is.

    Args:
        arrays: finite tokens, [R, C] each.
        basis: basis of C channels.
        max_bytes: upper limit of the bytes of all bodies together.

    Raises:
        InvalidRequest: the number of channels is not that of the basis, or a value is too large for the step.
    """
    coefficients = [_coefficients(array, basis) for array in arrays]

    def fits(step: int) -> bool:
        return sum(_body_bytes(values, basis, step) for values in coefficients) <= max_bytes

    low, high = basis.finest - 1, basis.coarsest  # invariant: `low` does not fit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _body_bytes(coefficients: Float32Array, basis: WireBasis, step: int) -> int:
    plan = _CodingPlan(basis, len(coefficients), step)
    _, symbols, exceptions = _split(_codes(coefficients, step), plan)
    bits = float(basis.tables.bits[plan.table, symbols].sum()) + int(plan.low_bits.sum())
    return (
        _HEADER.size + len(exceptions) * _EXCEPTION.itemsize + math.ceil(bits / 8) + _stream_overhead(len(plan.table))
    )


def _stream_overhead(num_symbols: int) -> int:
    """Bytes of a stream beyond its symbols. About 1 of the 4 bytes of each state holds symbols; 3 are overhead."""
    return 3 * rans.num_states(num_symbols)


def _coefficients(array: Float32Array, basis: WireBasis) -> Float32Array:
    if array.shape[1] != basis.channels:
        raise InvalidRequest(f"{array.shape[1]} channels; the wire basis has {basis.channels}")
    with np.errstate(over="ignore", invalid="ignore"):  # `_codes` checks the result
        values = (array - basis.mean) @ basis.analysis
        return np.asarray(cosines(len(array)) @ values if len(array) == basis.tokens_per_image else values, np.float32)


def _codes(coefficients: Float32Array, step: int) -> Codes:
    """Integer codes of coefficients, [R, C]."""
    magnitudes = np.abs(coefficients) / np.float32(step_size(step))
    if not (magnitudes < _LARGEST_CODE).all():  # also refuses NaN
        raise InvalidRequest("a value is too large for the wire basis")
    return np.copysign(np.floor(magnitudes + _ROUNDING), coefficients).astype(np.int32)


def _split(codes: Codes, plan: _CodingPlan) -> tuple[Codes, Bytes, npt.NDArray[np.void]]:
    """Low bits [n], symbols [n] from 0 to 2 * MAX_SYMBOL, and exceptions.

    An exception is a code that does not fit the plan. The stream has a 0 in its place if its class is coded.
    """
    codes = codes.reshape(-1)
    coded, half = codes[plan.index], plan.half
    is_too_large = np.abs((coded + half) >> plan.low_bits) > MAX_SYMBOL
    is_exception = np.abs(codes) > _MAX_DROPPED_CODE
    is_exception[plan.index] = is_too_large
    index = np.flatnonzero(is_exception)
    exceptions = np.empty(len(index), _EXCEPTION)
    exceptions["index"], exceptions["code"] = index, codes[index]
    coded[is_too_large] = 0
    shifted = coded + half
    low = shifted & ((np.int32(1) << plan.low_bits) - 1)
    return low, ((shifted >> plan.low_bits) + MAX_SYMBOL).astype(np.uint8), exceptions


def _pack(low: Codes, low_bits: Bytes) -> bytes:
    """Low bits as bytes: one bit plane after the other, from the lowest bits up. Bytes fill from their highest bit."""
    planes = [(low[low_bits > bit] >> bit & 1).astype(np.uint8) for bit in range(low_bits.max(initial=0))]
    return np.packbits(np.concatenate([*planes, np.empty(0, np.uint8)])).tobytes()


def _unpack(data: bytes, low_bits: Bytes) -> Codes:
    total = int(low_bits.sum())
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).astype(np.int32)
    if bits[total:].any():
        raise InvalidRequest("the bits after the last low bit are not zero")
    low, start = np.zeros(len(low_bits), np.int32), 0
    for bit in range(low_bits.max(initial=0)):
        has_bit = low_bits > bit
        count = int(np.count_nonzero(has_bit))
        low[has_bit] |= bits[start : start + count] << bit
        start += count
    return low


class BasisCodec(Codec):
    """Codec of the wire format `basis`. The wire basis is an argument, since each checkpoint has its own."""

    def encode(self, tokens: Float32Array, coding: Coding) -> bytes:
        basis = _loaded(coding.basis)
        return encode(tokens, basis, basis.step if coding.step is None else coding.step)

    def decode(self, data: bytes, num_tokens: int, channels: int, basis: WireBasis | None = None) -> Float32Array:
        if basis is None:
            raise CheckpointMismatch("the tensor is written in a wire basis, and this service has none loaded")
        return decode(data, num_tokens, channels, basis)

    def expected_bytes(self, num_tokens: int, channels: int, basis: WireBasis | None = None) -> int:
        basis = _loaded(basis)
        step = basis.step + (_MAX_COARSER_STEPS if num_tokens == basis.tokens_per_image else 0)
        return expected_bytes(num_tokens, basis, step)

    def steps(self, arrays: Sequence[Float32Array], basis: WireBasis, max_bytes: int) -> Sequence[int]:
        # The finest step that is expected to fit, then coarser ones if the expectation was too low.
        return range(finest_step(arrays, basis, max_bytes), basis.coarsest + 1)


def _loaded(basis: WireBasis | None) -> WireBasis:
    if basis is None:
        raise InvalidRequest("dtype basis needs a wire basis, and none is loaded", param="wire_dtype")
    return basis
