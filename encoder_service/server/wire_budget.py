"""Number of tokens and wire format for a budget of bytes.

In the small world, one token fewer costs more accuracy than one bit fewer (docs/wire.md). The number of tokens is
therefore what fits in the narrowest wire format. The wire format is then the widest in which these tokens fit, or the
finest step of a wire basis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from fovea.errors import InvalidRequest
from fovea.v1 import tensor_pb2
from fovea.wire import tensors
from fovea.wire.basis import WireBasis
from fovea.wire.codecs import CODECS
from fovea.wire.formats import WireFormat, format_of, formats_for_byte_budgets, plane_dtype

__all__ = ["fit_messages", "max_tokens_for_bytes"]

_Write: TypeAlias = Callable[[tensor_pb2.DType, int | None], Sequence[tensor_pb2.VisualTokens]]

_UNKNOWN_GRID: Final = (1000, 1000)  # patches; for images that differ and for videos
_MESSAGE_BYTES: Final = 64  # grid, shape, checksum, field tags and lengths
_PLANE_BYTES: Final = 32  # the same of a plane


def max_tokens_for_bytes(
    max_bytes: int,
    *,
    num_media: int,
    channels: int,
    fingerprint: str,
    grid: tuple[int, int] | None,
    wire_dtype: tensor_pb2.DType = tensor_pb2.DTYPE_UNSPECIFIED,
    basis: WireBasis | None = None,
    num_planes: int = 0,
) -> int:
    """Number of visual tokens of each image or video that fit in `max_bytes`.

    Args:
        max_bytes: Bytes of all VisualTokens messages together.
        num_media: Number of images and videos, which share the bytes evenly.
        channels: Width C of a token.
        fingerprint: Fingerprint of the checkpoint, part of each message.
        grid: Rows and columns of patches; None if the images differ or there are videos.
        wire_dtype: The only wire format to consider; unspecified: any.
        basis: Loaded wire basis; None if there is none.
        num_planes: Number of DeepStack planes of a token.

    Raises:
        InvalidRequest: Not even one token for each image or video fits.
    """
    narrowest = _considered(wire_dtype, basis)[-1]
    codec, plane_codec = CODECS[narrowest.dtype], CODECS[plane_dtype(narrowest.dtype)]
    rows, columns = grid or _UNKNOWN_GRID
    position_bytes = -(-(rows * columns - 1).bit_length() // 7)  # a varint

    def num_bytes(tokens: int) -> int:
        overhead = _MESSAGE_BYTES + len(fingerprint) + position_bytes * tokens
        plane = _PLANE_BYTES + plane_codec.expected_bytes(tokens, channels, basis)
        return num_media * (overhead + codec.expected_bytes(tokens, channels, basis) + num_planes * plane)

    if (least := num_bytes(1)) > max_bytes:
        raise InvalidRequest(
            f"max_wire_bytes {max_bytes} has no room for one visual token an image or video; at least {least}",
            param="max_wire_bytes",
        )
    low, high = 1, max_bytes  # `low` tokens fit, `high` tokens do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if num_bytes(middle) <= max_bytes else (low, middle)
    # An unpruned image may take fewer bytes than some of its tokens. Only there a basis codes neighbours together.
    unpruned = basis.tokens_per_image if basis is not None and narrowest.needs_basis else 0
    return unpruned if unpruned > low and num_bytes(unpruned) <= max_bytes else low


def fit_messages(
    write: _Write,
    features: Sequence[tensors.Float32Array],
    max_bytes: int,
    wire_dtype: tensor_pb2.DType = tensor_pb2.DTYPE_UNSPECIFIED,
    basis: WireBasis | None = None,
) -> Sequence[tensor_pb2.VisualTokens]:
    """Messages in the widest wire format in which they take at most `max_bytes`.

    Args:
        write: Function from a wire format and a step of the basis to the messages; raises InvalidRequest where the
            format cannot hold the features.
        features: [K, C] features of each message.
        max_bytes: Bytes of all messages together, serialized.
        wire_dtype: The only wire format to consider; unspecified: any.
        basis: Loaded wire basis; None if there is none.

    Raises:
        InvalidRequest: The messages fit in no wire format.
    """
    least = 0
    formats = _considered(wire_dtype, basis)
    for wire_format in formats:
        try:
            for step in _steps(wire_format, write, features, max_bytes, basis):
                messages = write(wire_format.dtype, step)
                least = sum(message.ByteSize() for message in messages)
                if least <= max_bytes:
                    return messages
        except InvalidRequest:
            if wire_format is formats[-1]:
                raise
    raise InvalidRequest(
        f"the visual tokens take {least} bytes, more than max_wire_bytes {max_bytes}", param="max_wire_bytes"
    )


def _considered(wire_dtype: tensor_pb2.DType, basis: WireBasis | None) -> Sequence[WireFormat]:
    """Wire formats to try, widest first; one if the request names one."""
    named = format_of(wire_dtype)
    return formats_for_byte_budgets(has_basis=basis is not None) if named is None else (named,)


def _steps(
    wire_format: WireFormat,
    write: _Write,
    features: Sequence[tensors.Float32Array],
    max_bytes: int,
    basis: WireBasis | None,
) -> Sequence[int | None]:
    """Steps of the wire basis to try in turn; (None,) for a format without one."""
    if basis is None or not wire_format.needs_basis:
        return (None,)  # without a basis, `write` raises the error that it is needed
    written = write(wire_format.dtype, None)
    overhead = sum(message.ByteSize() - len(message.features.data) for message in written)
    return CODECS[wire_format.dtype].steps(features, basis, max_bytes - overhead)
