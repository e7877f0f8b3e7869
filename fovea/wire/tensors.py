"""Conversion of `Tensor` messages to and from numpy, with validation. It needs no torch, so any client can use it.

A received message is treated as hostile. Sizes are checked before memory is allocated, the checksum before the values
are decoded, and finiteness before the values are used. There is no pickle and no .npy.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from fovea.errors import CheckpointMismatch, InvalidRequest
from fovea.v1 import tensor_pb2
from fovea.wire import basis_codec, integer_codec
from fovea.wire.basis import WireBasis
from fovea.wire.quantized import ENTROPY, INT4, INT8, Packing, Quantized, all_finite

__all__ = [
    "DTYPES",
    "Float16Array",
    "Float32Array",
    "converted_message",
    "data_bytes",
    "dtype_name",
    "from_message",
    "parse_dtype",
    "to_message",
]

Float16Array = npt.NDArray[np.float16]
Float32Array = npt.NDArray[np.float32]

DTYPES: Final = {
    "float32": tensor_pb2.DTYPE_FLOAT32,
    "float16": tensor_pb2.DTYPE_FLOAT16,
    "bfloat16": tensor_pb2.DTYPE_BFLOAT16,
    "int8": tensor_pb2.DTYPE_INT8,
    "int4": tensor_pb2.DTYPE_INT4,
    "entropy": tensor_pb2.DTYPE_ENTROPY,
    "basis": tensor_pb2.DTYPE_BASIS,
}
_ITEM_BYTES: Final = {
    tensor_pb2.DTYPE_FLOAT32: 4,
    tensor_pb2.DTYPE_FLOAT16: 2,
    tensor_pb2.DTYPE_BFLOAT16: 2,
}
_SCHEMES: Final = {
    tensor_pb2.DTYPE_INT8: INT8,
    tensor_pb2.DTYPE_INT4: INT4,
    tensor_pb2.DTYPE_ENTROPY: ENTROPY,
}
_DTYPE_OF_SCHEME: Final = {scheme: dtype for dtype, scheme in _SCHEMES.items()}
_MAX_AXES: Final = 8


def parse_dtype(name: str) -> tensor_pb2.DType:
    """Wire dtype called `name`.

    Raises:
        InvalidRequest: `name` is not a key of `DTYPES`.
    """
    if name not in DTYPES:
        raise InvalidRequest(f"wire_dtype {name!r} is not one of {', '.join(DTYPES)}", param="wire_dtype")
    return DTYPES[name]


def dtype_name(dtype: tensor_pb2.DType) -> str:
    """Name of a wire dtype, a key of `DTYPES`; "unspecified" for an unknown one."""
    return next((name for name, value in DTYPES.items() if value == dtype), "unspecified")


def _bfloat16_bits(array: Float32Array) -> npt.NDArray[np.uint16]:
    """Bits of values in bfloat16: the upper halves of binary32 numbers, rounded to the nearest even."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def data_bytes(num_tokens: int, channels: int, dtype: tensor_pb2.DType) -> int:
    """Expected bytes of `Tensor.data`. Huffman coding may need fewer. For DTYPE_BASIS see `basis_codec.expected_bytes`.

    Args:
        num_tokens: visual tokens.
        channels: channels of a token.
        dtype: wire dtype other than DTYPE_BASIS.
    """
    scheme = _SCHEMES.get(dtype)
    if scheme is None:
        return num_tokens * channels * _ITEM_BYTES[dtype]
    return integer_codec.expected_bytes(num_tokens, channels, scheme)


def to_message(
    array: Float32Array,
    dtype: tensor_pb2.DType,
    *,
    packing: Packing = "shorter",
    basis: WireBasis | None = None,
    step: int | None = None,
) -> tensor_pb2.Tensor:
    """Message with finite values of any shape.

    Args:
        array: values; at least one axis and one value.
        dtype: wire dtype.
        packing: `shorter` for Huffman coding where it needs fewer bytes, `packed` for none; for integer dtypes.
        basis: wire basis; for DTYPE_BASIS.
        step: step of the codes; None for the default of the basis; for DTYPE_BASIS.

    Raises:
        InvalidRequest: a value is not finite or too large for `dtype`, or a basis is needed and missing.
    """
    if dtype not in DTYPES.values():
        raise InvalidRequest(f"tensor dtype {dtype} is not one of {', '.join(DTYPES)}")
    if dtype == tensor_pb2.DTYPE_BASIS and basis is None:
        raise InvalidRequest("dtype basis needs a wire basis, and none is loaded", param="wire_dtype")
    array = np.ascontiguousarray(array, dtype=np.float32)
    if dtype == tensor_pb2.DTYPE_FLOAT16:
        with np.errstate(over="ignore"):
            return converted_message(array.astype(np.float16))
    _check_finite(array, dtype)
    tokens = array.reshape(-1, array.shape[-1])
    scheme = _SCHEMES.get(dtype)
    if basis is not None and dtype == tensor_pb2.DTYPE_BASIS:
        data = basis_codec.encode(tokens, basis, basis.step if step is None else step)
    elif scheme is not None:
        data = integer_codec.quantize(tokens, scheme).write(packing=packing)
    elif dtype == tensor_pb2.DTYPE_BFLOAT16:
        data = _bfloat16_bits(array).tobytes()
    else:
        data = array.astype("<f4", copy=False).tobytes()
    return _message(dtype, array.shape, data)


def converted_message(values: Float16Array | Quantized) -> tensor_pb2.Tensor:
    """Message with values that have been converted to a wire format, float16 or that of the scheme.

    Raises:
        InvalidRequest: a value was not finite or too large for the wire format.
    """
    if isinstance(values, Quantized):
        return _message(_DTYPE_OF_SCHEME[values.scheme], values.shape, values.write())
    _check_finite(values, tensor_pb2.DTYPE_FLOAT16)
    return _message(tensor_pb2.DTYPE_FLOAT16, values.shape, values.astype("<f2", copy=False).tobytes())


def _check_finite(values: Float16Array | Float32Array, dtype: tensor_pb2.DType) -> None:
    if not all_finite(values):
        raise InvalidRequest(f"the tensor has values that are not finite in {dtype_name(dtype)}")


def _message(dtype: tensor_pb2.DType, shape: Sequence[int], data: bytes) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(dtype=dtype, shape=shape, data=data, crc32=zlib.crc32(data))


def from_message(message: tensor_pb2.Tensor, *, max_bytes: int, basis: WireBasis | None = None) -> Float32Array:
    """Values of a received message as a float32 array of its shape.

    Args:
        message: received message.
        max_bytes: most bytes of the returned array.
        basis: wire basis that this service has loaded; for DTYPE_BASIS.

    Raises:
        InvalidRequest: the dtype is unknown, shape and data disagree, the checksum is wrong, a value is not finite, or
            the array would be too large.
        CheckpointMismatch: the tensor is written in a basis other than `basis`, or in a version of its wire format
            that is not known here.
    """
    if message.dtype not in DTYPES.values():
        raise InvalidRequest(f"tensor dtype {message.dtype} is not one of {', '.join(DTYPES)}")
    shape = tuple(message.shape)
    if not 1 <= len(shape) <= _MAX_AXES or 0 in shape:
        raise InvalidRequest(f"tensor shape {list(shape)} is not 1 to {_MAX_AXES} positive extents")
    size = math.prod(shape)
    if size * 4 > max_bytes:
        raise InvalidRequest(f"a tensor of shape {list(shape)} takes more than the {max_bytes} bytes accepted")
    item_bytes = _ITEM_BYTES.get(message.dtype)
    if item_bytes is not None and len(message.data) != (expected := size * item_bytes):
        raise InvalidRequest(
            f"a {dtype_name(message.dtype)} tensor of shape {list(shape)} has {expected} bytes, not {len(message.data)}"
        )
    if zlib.crc32(message.data) != message.crc32:
        raise InvalidRequest("the tensor's checksum does not match its data")
    array = _decode(message, size // shape[-1], shape[-1], basis)
    if not np.isfinite(array).all():
        raise InvalidRequest("the tensor holds NaN or infinity")
    return array.reshape(shape)


def _decode(message: tensor_pb2.Tensor, num_tokens: int, channels: int, basis: WireBasis | None) -> Float32Array:
    if message.dtype == tensor_pb2.DTYPE_BASIS:
        if basis is None:
            raise CheckpointMismatch("the tensor is written in a wire basis, and this service has none loaded")
        return basis_codec.decode(message.data, num_tokens, channels, basis)
    scheme = _SCHEMES.get(message.dtype)
    if scheme is not None:
        return integer_codec.decode(message.data, num_tokens, channels, scheme.bits)
    if message.dtype == tensor_pb2.DTYPE_BFLOAT16:
        return (np.frombuffer(message.data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(message.data, "<f4" if message.dtype == tensor_pb2.DTYPE_FLOAT32 else "<f2").astype(np.float32)
