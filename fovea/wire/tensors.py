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

from fovea.errors import InvalidRequest
from fovea.v1 import tensor_pb2
from fovea.wire.basis import WireBasis
from fovea.wire.codec import Codec, Coding, Float32Array
from fovea.wire.codecs import CODECS
from fovea.wire.float_codec import float16_bytes
from fovea.wire.formats import WIRE_FORMATS, dtype_name, format_named
from fovea.wire.integer_codec import IntegerCodec
from fovea.wire.quantized import Packing, Quantized, all_finite

__all__ = [
    "DTYPES",
    "Float16Array",
    "Float32Array",
    "converted_message",
    "data_bytes",
    "from_message",
    "parse_dtype",
    "to_message",
]

Float16Array = npt.NDArray[np.float16]

DTYPES: Final = {name: wire_format.dtype for name, wire_format in WIRE_FORMATS.items()}
_DTYPE_OF_SCHEME: Final = {codec.scheme: dtype for dtype, codec in CODECS.items() if isinstance(codec, IntegerCodec)}
_MAX_AXES: Final = 8


def parse_dtype(name: str) -> tensor_pb2.DType:
    """Wire dtype called `name`.

    Raises:
        InvalidRequest: `name` is not a key of `DTYPES`.
    """
    return format_named(name).dtype


def data_bytes(num_tokens: int, channels: int, dtype: tensor_pb2.DType, basis: WireBasis | None = None) -> int:
    """Expected bytes of `Tensor.data`. Huffman coding may need fewer.

    Args:
        num_tokens: visual tokens.
        channels: channels of a token.
        dtype: wire dtype.
        basis: wire basis; for DTYPE_BASIS.

    Raises:
        InvalidRequest: the dtype is unknown, or a basis is needed and missing.
    """
    return _codec(dtype).expected_bytes(num_tokens, channels, basis)


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
    codec = _codec(dtype)
    array = np.ascontiguousarray(array, dtype=np.float32)
    if not all_finite(array):
        raise InvalidRequest(f"the tensor has values that are not finite in {dtype_name(dtype)}")
    tokens = array.reshape(-1, array.shape[-1])
    data = codec.encode(tokens, Coding(packing, basis, step))
    return _message(dtype, array.shape, data)


def converted_message(values: Float16Array | Quantized) -> tensor_pb2.Tensor:
    """Message with values that have been converted to a wire format, float16 or that of the scheme.

    Raises:
        InvalidRequest: a value was not finite or too large for the wire format.
    """
    if isinstance(values, Quantized):
        return _message(_DTYPE_OF_SCHEME[values.scheme], values.shape, values.write())
    return _message(tensor_pb2.DTYPE_FLOAT16, values.shape, float16_bytes(values))


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
    codec = _codec(message.dtype)
    shape = tuple(message.shape)
    if not 1 <= len(shape) <= _MAX_AXES or 0 in shape:
        raise InvalidRequest(f"tensor shape {list(shape)} is not 1 to {_MAX_AXES} positive extents")
    size = math.prod(shape)
    if size * 4 > max_bytes:
        raise InvalidRequest(f"a tensor of shape {list(shape)} takes more than the {max_bytes} bytes accepted")
    expected = codec.exact_bytes(size)
    data = message.data  # a copy each time that it is read
    if expected is not None and len(data) != expected:
        raise InvalidRequest(
            f"a {dtype_name(message.dtype)} tensor of shape {list(shape)} has {expected} bytes, not {len(data)}"
        )
    if zlib.crc32(data) != message.crc32:
        raise InvalidRequest("the tensor's checksum does not match its data")
    array = codec.decode(data, size // shape[-1], shape[-1], basis)
    if not np.isfinite(array).all():
        raise InvalidRequest("the tensor holds NaN or infinity")
    return array.reshape(shape)


def _codec(dtype: tensor_pb2.DType) -> Codec:
    codec = CODECS.get(dtype)
    if codec is None:
        raise InvalidRequest(f"tensor dtype {dtype} is not one of {', '.join(WIRE_FORMATS)}")
    return codec
