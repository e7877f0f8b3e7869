"""`Tensor` messages to and from numpy, validated. No torch: the gateway and any client can use it.

Everything that arrives is treated as hostile: sizes are checked before memory is taken, the checksum before the
numbers are read, finiteness before anybody computes with them. Never pickle, never .npy.
"""

from __future__ import annotations

import math
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt

from fovea.errors import CheckpointMismatch, InvalidRequest
from fovea.v1 import tensor_pb2
from fovea.wire import basis_codec, integer_codec
from fovea.wire.basis import WireBasis

__all__ = ["DTYPES", "Float32Array", "data_bytes", "dtype_name", "from_message", "parse_dtype", "to_message"]

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
    tensor_pb2.DTYPE_INT8: integer_codec.INT8,
    tensor_pb2.DTYPE_INT4: integer_codec.INT4,
    tensor_pb2.DTYPE_ENTROPY: integer_codec.ENTROPY,
}
_MAX_AXES: Final = 8


def parse_dtype(name: str) -> tensor_pb2.DType:
    """The wire dtype called `name`.

    Raises:
        InvalidRequest: No such dtype.
    """
    if name not in DTYPES:
        raise InvalidRequest(f"wire_dtype {name!r} is not one of {', '.join(DTYPES)}", param="wire_dtype")
    return DTYPES[name]


def dtype_name(dtype: tensor_pb2.DType) -> str:
    """The name of a wire dtype, a key of `DTYPES`."""
    return next((name for name, value in DTYPES.items() if value == dtype), "unspecified")


def _bfloat16_bits(array: Float32Array) -> npt.NDArray[np.uint16]:
    """Upper halves of binary32 numbers, rounded to the nearest even."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def data_bytes(rows: int, channels: int, dtype: tensor_pb2.DType) -> int:
    """Bytes of `Tensor.data` to reckon with for [rows, channels]; Huffman coding may make it less.

    Of DTYPE_BASIS `basis_codec.expected_bytes` knows.
    """
    scheme = _SCHEMES.get(dtype)
    return (
        rows * channels * _ITEM_BYTES[dtype] if scheme is None else integer_codec.expected_bytes(rows, channels, scheme)
    )


def to_message(
    array: Float32Array,
    dtype: tensor_pb2.DType,
    *,
    packing: integer_codec.Packing = "shorter",
    basis: WireBasis | None = None,
    step: int | None = None,
) -> tensor_pb2.Tensor:
    """Writes finite numbers of any shape as `dtype`.

    Args:
        array: At least one axis and one value.
        dtype: How.
        packing: Of integer dtypes: `shorter` is Huffman-coded where that helps, `packed` never.
        basis: What DTYPE_BASIS needs.
        step: Of DTYPE_BASIS; None for the basis's own.

    Raises:
        InvalidRequest: A value is not finite, or too large for `dtype`, or there is no basis.
    """
    array = np.ascontiguousarray(array, dtype=np.float32)
    if dtype == tensor_pb2.DTYPE_FLOAT32:
        data = array.astype("<f4", copy=False).tobytes()
        finite = np.isfinite(array).all()
    elif dtype == tensor_pb2.DTYPE_FLOAT16:
        with np.errstate(over="ignore"):
            half = array.astype("<f2")
        data, finite = half.tobytes(), np.isfinite(half).all()
    elif dtype == tensor_pb2.DTYPE_BFLOAT16:
        finite = np.isfinite(array).all()
        data = _bfloat16_bits(array).tobytes() if finite else b""
    elif dtype == tensor_pb2.DTYPE_BASIS:
        if basis is None:
            raise InvalidRequest("dtype basis needs a wire basis, and none is loaded", param="wire_dtype")
        finite = np.isfinite(array).all()
        step = basis.step if step is None else step
        data = basis_codec.encode(array.reshape(-1, array.shape[-1]), basis, step) if finite else b""
    elif (scheme := _SCHEMES.get(dtype)) is not None:
        finite = np.isfinite(array).all()
        data = integer_codec.encode(array.reshape(-1, array.shape[-1]), scheme, packing=packing) if finite else b""
    else:
        raise InvalidRequest(f"tensor dtype {dtype} is not one of {', '.join(DTYPES)}")
    if not finite:
        raise InvalidRequest(f"the tensor has values that are not finite in {dtype_name(dtype)}")
    return tensor_pb2.Tensor(dtype=dtype, shape=array.shape, data=data, crc32=zlib.crc32(data))


def from_message(message: tensor_pb2.Tensor, *, max_bytes: int, basis: WireBasis | None = None) -> Float32Array:
    """Reads a tensor that came over the wire as a float32 array of its shape.

    Args:
        message: What arrived.
        max_bytes: Most bytes of float32 that the result may take.
        basis: That this service has loaded, for DTYPE_BASIS.

    Raises:
        InvalidRequest: Unknown dtype, shape and data disagree, checksum wrong, values not finite, or too large.
        CheckpointMismatch: Written in a basis that is not the one loaded.
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
    array = _read(message, size // shape[-1], shape[-1], basis)
    if not np.isfinite(array).all():
        raise InvalidRequest("the tensor holds NaN or infinity")
    return array.reshape(shape)


def _read(message: tensor_pb2.Tensor, rows: int, channels: int, basis: WireBasis | None) -> Float32Array:
    if message.dtype == tensor_pb2.DTYPE_BASIS:
        if basis is None:
            raise CheckpointMismatch("the tensor is written in a wire basis, and this service has none loaded")
        return basis_codec.decode(message.data, rows, channels, basis)
    scheme = _SCHEMES.get(message.dtype)
    if scheme is not None:
        return integer_codec.decode(message.data, rows, channels, scheme.bits)
    if message.dtype == tensor_pb2.DTYPE_BFLOAT16:
        return (np.frombuffer(message.data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(message.data, "<f4" if message.dtype == tensor_pb2.DTYPE_FLOAT32 else "<f2").astype(np.float32)
