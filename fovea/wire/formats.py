"""Registry of the wire formats. Settings, schemas, error texts, budgets of bytes and commands take them from here.

The codecs are in `fovea.wire.codecs`, which needs numpy. The gateway encodes no values and imports this module alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from fovea.errors import InvalidRequest
from fovea.v1 import tensor_pb2

__all__ = [
    "WIRE_FORMATS",
    "OptionalWireFormatName",
    "WireFormat",
    "WireFormatName",
    "dtype_name",
    "format_named",
    "format_of",
    "formats_for_byte_budgets",
    "names_accepted",
    "plane_dtype",
]


@dataclass(frozen=True)
class WireFormat:
    """Form in which the features of visual tokens travel.

    Attributes:
        name: name in requests, settings and schemas.
        dtype: value of `Tensor.dtype`.
        summary: what a value is, in one line of Markdown; docs/wire.md has it.
        needs_basis: whether both services must have loaded a wire basis.
        in_byte_budgets: whether a budget of bytes considers it. It takes the first format of the registry that fits.
        superseded_by_basis: whether a budget of bytes leaves it out where a basis is loaded.
    """

    name: str
    dtype: tensor_pb2.DType
    summary: str
    needs_basis: bool = False
    in_byte_budgets: bool = False
    superseded_by_basis: bool = False


# Widest first. Budgets of bytes leave out float32, because no computation here is that exact, and bfloat16, which takes
# the bytes of float16 for less precision. A basis takes fewer bytes than int4 and entropy at the same accuracy.
_FORMATS: Final = (
    WireFormat("float32", tensor_pb2.DTYPE_FLOAT32, "IEEE 754 binary32"),
    WireFormat(
        "float16",
        tensor_pb2.DTYPE_FLOAT16,
        "IEEE 754 binary16; values beyond its range are refused",
        in_byte_budgets=True,
    ),
    WireFormat("bfloat16", tensor_pb2.DTYPE_BFLOAT16, "the upper half of a binary32"),
    WireFormat("int8", tensor_pb2.DTYPE_INT8, "8 bits, one scale a token", in_byte_budgets=True),
    WireFormat(
        "int4",
        tensor_pb2.DTYPE_INT4,
        "4 bits, one scale for 64 channels; one value in 256 of each token, an outlier, is sent in float16",
        in_byte_budgets=True,
        superseded_by_basis=True,
    ),
    WireFormat(
        "entropy",
        tensor_pb2.DTYPE_ENTROPY,
        "an integer multiple of one coarse step (0.75 of the root mean square), Huffman-coded: about 2.5 bits",
        in_byte_budgets=True,
        superseded_by_basis=True,
    ),
    WireFormat(
        "basis",
        tensor_pb2.DTYPE_BASIS,
        "an integer multiple of one step in a basis learned for the checkpoint, entropy-coded by its expected spread:"
        " below one bit",
        needs_basis=True,
        in_byte_budgets=True,
    ),
)

WIRE_FORMATS: Final[Mapping[str, WireFormat]] = MappingProxyType({item.name: item for item in _FORMATS})
"""All wire formats by name, widest first."""

if TYPE_CHECKING:
    WireFormatName: TypeAlias = str
    OptionalWireFormatName: TypeAlias = str
else:  # literals for pydantic, whose schemas and errors then list the names
    WireFormatName = Literal[tuple(WIRE_FORMATS)]
    OptionalWireFormatName = Literal["", *WIRE_FORMATS]

_BY_DTYPE: Final = {item.dtype: item for item in _FORMATS}


def format_named(name: str) -> WireFormat:
    """Wire format called `name`.

    Raises:
        InvalidRequest: there is none.
    """
    if name not in WIRE_FORMATS:
        raise InvalidRequest(f"wire_dtype {name!r} is not one of {', '.join(WIRE_FORMATS)}", param="wire_dtype")
    return WIRE_FORMATS[name]


def format_of(dtype: tensor_pb2.DType) -> WireFormat | None:
    """Wire format of a `Tensor.dtype`; None for an unknown one."""
    return _BY_DTYPE.get(dtype)


def dtype_name(dtype: tensor_pb2.DType) -> str:
    """Name of a `Tensor.dtype`, a key of `WIRE_FORMATS`; "unspecified" for an unknown one."""
    wire_format = format_of(dtype)
    return "unspecified" if wire_format is None else wire_format.name


def plane_dtype(dtype: tensor_pb2.DType) -> tensor_pb2.DType:
    """Dtype of the DeepStack planes that travel beside features of `dtype`.

    A wire basis is learned for the features alone, so planes beside it are sent in `entropy`.
    """
    wire_format = format_of(dtype)
    return tensor_pb2.DTYPE_ENTROPY if wire_format is not None and wire_format.needs_basis else dtype


def names_accepted(*, has_basis: bool) -> list[str]:
    """Names of the formats that a service can write, with or without a wire basis."""
    return [item.name for item in _FORMATS if has_basis or not item.needs_basis]


def formats_for_byte_budgets(*, has_basis: bool) -> Sequence[WireFormat]:
    """Formats that a budget of bytes considers, widest first, with or without a wire basis."""
    considered = [item for item in _FORMATS if item.in_byte_budgets]
    return [item for item in considered if not (item.superseded_by_basis if has_basis else item.needs_basis)]
