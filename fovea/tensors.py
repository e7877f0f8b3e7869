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

from fovea.errors import InvalidRequest
from fovea.v1 import tensor_pb2

__all__ = ["DTYPES", "Float32Array", "dtype_name", "from_message", "parse_dtype", "to_message"]

Float32Array = npt.NDArray[np.float32]

DTYPES: Final = {
    "float32": tensor_pb2.DTYPE_FLOAT32,
    "float16": tensor_pb2.DTYPE_FLOAT16,
    "bfloat16": tensor_pb2.DTYPE_BFLOAT16,
}
_ITEM_BYTES: Final = {
    tensor_pb2.DTYPE_FLOAT32: 4,
    tensor_pb2.DTYPE_FLOAT16: 2,
    tensor_pb2.DTYPE_BFLOAT16: 2,
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
    """The name of a wire dtype: float32, float16, bfloat16."""
    return next((name for name, value in DTYPES.items() if value == dtype), "unspecified")


def _bfloat16_bits(array: Float32Array) -> npt.NDArray[np.uint16]:
    """Upper halves of binary32 numbers, rounded to the nearest even."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def to_message(array: Float32Array, dtype: tensor_pb2.DType) -> tensor_pb2.Tensor:
    """Writes finite numbers of any shape as `dtype`.

    Raises:
        InvalidRequest: A value is not finite, or too large for `dtype`.
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
    else:
        raise InvalidRequest(f"tensor dtype {dtype} is not one of {', '.join(DTYPES)}")
    if not finite:
        raise InvalidRequest(f"the tensor has values that are not finite in {dtype_name(dtype)}")
    return tensor_pb2.Tensor(dtype=dtype, shape=array.shape, data=data, crc32=zlib.crc32(data))


def from_message(message: tensor_pb2.Tensor, *, max_bytes: int) -> Float32Array:
    """Reads a tensor that came over the wire as a float32 array of its shape.

    Args:
        message: What arrived.
        max_bytes: Most bytes of float32 that the result may take.

    Raises:
        InvalidRequest: Unknown dtype, shape and data disagree, checksum wrong, values not finite, or too large.
    """
    item = _ITEM_BYTES.get(message.dtype)
    if item is None:
        raise InvalidRequest(f"tensor dtype {message.dtype} is not one of {', '.join(DTYPES)}")
    shape = tuple(message.shape)
    if not 1 <= len(shape) <= _MAX_AXES or 0 in shape:
        raise InvalidRequest(f"tensor shape {list(shape)} is not 1 to {_MAX_AXES} positive extents")
    size = math.prod(shape)
    if size * 4 > max_bytes:
        raise InvalidRequest(f"a tensor of shape {list(shape)} takes more than the {max_bytes} bytes accepted")
    if len(message.data) != size * item:
        raise InvalidRequest(
            f"a {dtype_name(message.dtype)} tensor of shape {list(shape)} has {size * item} bytes,"
            f" not {len(message.data)}"
        )
    if zlib.crc32(message.data) != message.crc32:
        raise InvalidRequest("the tensor's checksum does not match its data")
    if message.dtype == tensor_pb2.DTYPE_BFLOAT16:
        array = (np.frombuffer(message.data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        array = np.frombuffer(message.data, "<f4" if item == 4 else "<f2").astype(np.float32)
    if not np.isfinite(array).all():
        raise InvalidRequest("the tensor holds NaN or infinity")
    return array.reshape(shape)
