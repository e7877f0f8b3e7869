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
from fovea.wire import basis_codec, tensors
from fovea.wire.basis import WireBasis

__all__ = ["fit_messages", "max_tokens_for_bytes"]

_Write: TypeAlias = Callable[[tensor_pb2.DType, int | None], Sequence[tensor_pb2.VisualTokens]]

# Widest first. float32 is left out, because no computation here is that exact.
_FORMATS: Final = (
    tensor_pb2.DTYPE_FLOAT16,
    tensor_pb2.DTYPE_INT8,
    tensor_pb2.DTYPE_INT4,
    tensor_pb2.DTYPE_ENTROPY,
)
# A basis takes fewer bytes than int4 and entropy at the same accuracy.
_FORMATS_WITH_BASIS: Final = (tensor_pb2.DTYPE_FLOAT16, tensor_pb2.DTYPE_INT8, tensor_pb2.DTYPE_BASIS)
# Quarter octaves by which the step of an unpruned image may exceed the default before tokens are dropped. For a pruned
# image, tokens are dropped first (docs/wire.md).
_MAX_COARSER_STEPS: Final = 4
_UNKNOWN_GRID: Final = (1000, 1000)  # patches; for images that differ and for videos
_MESSAGE_BYTES: Final = 64  # grid, shape, checksum, field tags and lengths


def max_tokens_for_bytes(
    max_bytes: int,
    *,
    num_media: int,
    channels: int,
    fingerprint: str,
    grid: tuple[int, int] | None,
    wire_dtype: tensor_pb2.DType = tensor_pb2.DTYPE_UNSPECIFIED,
    basis: WireBasis | None = None,
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

    Raises:
        InvalidRequest: Not even one token for each image or video fits.
    """
    dtype = wire_dtype or _formats(basis)[-1]
    rows, columns = grid or _UNKNOWN_GRID
    position_bytes = -(-(rows * columns - 1).bit_length() // 7)  # a varint

    def num_bytes(tokens: int) -> int:
        overhead = num_media * (_MESSAGE_BYTES + len(fingerprint) + position_bytes * tokens)
        return overhead + num_media * _data_bytes(tokens, channels, dtype, basis)

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
    unpruned = basis.tokens_per_image if basis is not None and dtype == tensor_pb2.DTYPE_BASIS else 0
    return unpruned if unpruned > low and num_bytes(unpruned) <= max_bytes else low


def _data_bytes(tokens: int, channels: int, dtype: tensor_pb2.DType, basis: WireBasis | None) -> int:
    """Bytes of the features of one image or video; with a basis, the expected number."""
    if dtype != tensor_pb2.DTYPE_BASIS or basis is None:
        return tensors.data_bytes(tokens, channels, dtype)
    step = basis.step + (_MAX_COARSER_STEPS if tokens == basis.tokens_per_image else 0)
    return basis_codec.expected_bytes(tokens, basis, step)


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
    formats = _formats(basis)
    for dtype in (wire_dtype,) if wire_dtype else formats:
        try:
            for step in _steps(write, features, max_bytes, basis) if dtype == tensor_pb2.DTYPE_BASIS else (None,):
                messages = write(dtype, step)
                least = sum(message.ByteSize() for message in messages)
                if least <= max_bytes:
                    return messages
        except InvalidRequest:
            if dtype == (wire_dtype or formats[-1]):
                raise
    raise InvalidRequest(
        f"the visual tokens take {least} bytes, more than max_wire_bytes {max_bytes}", param="max_wire_bytes"
    )


def _formats(basis: WireBasis | None) -> Sequence[tensor_pb2.DType]:
    return _FORMATS if basis is None else _FORMATS_WITH_BASIS


def _steps(
    write: _Write, features: Sequence[tensors.Float32Array], max_bytes: int, basis: WireBasis | None
) -> Sequence[int | None]:
    """Steps to try in turn: the finest that is expected to fit, then coarser ones if the expectation was too low."""
    if basis is None:
        return (None,)  # `write` raises the error that there is no basis
    overhead = sum(message.ByteSize() - len(message.features.data) for message in write(tensor_pb2.DTYPE_FLOAT32, None))
    return range(basis_codec.finest_step(features, basis, max_bytes - overhead), basis.coarsest + 1)
