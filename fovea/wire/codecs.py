"""Codecs of the wire formats. Only what encodes or decodes values imports them: the encoder and the LLM service."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fovea.v1 import tensor_pb2
from fovea.wire.basis_codec import BasisCodec
from fovea.wire.codec import Codec
from fovea.wire.float_codec import BFLOAT16, FLOAT16, FLOAT32
from fovea.wire.integer_codec import IntegerCodec
from fovea.wire.quantized import ENTROPY, INT4, INT8

__all__ = ["CODECS"]

CODECS: Final[Mapping[tensor_pb2.DType, Codec]] = MappingProxyType(
    {
        tensor_pb2.DTYPE_FLOAT32: FLOAT32,
        tensor_pb2.DTYPE_FLOAT16: FLOAT16,
        tensor_pb2.DTYPE_BFLOAT16: BFLOAT16,
        tensor_pb2.DTYPE_INT8: IntegerCodec(INT8),
        tensor_pb2.DTYPE_INT4: IntegerCodec(INT4),
        tensor_pb2.DTYPE_ENTROPY: IntegerCodec(ENTROPY),
        tensor_pb2.DTYPE_BASIS: BasisCodec(),
    }
)
"""Codec of each wire format of `fovea.wire.formats`, by its dtype."""
