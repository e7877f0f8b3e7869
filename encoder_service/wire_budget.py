"""Tokens x bits for a budget of bytes.

In the small world a token less costs more than a bit less (docs/wire.md). So a budget first decides how many tokens
fit in the narrowest dtype, and then, when it is known how many there are, which is the widest dtype that they fit in;
in a wire basis, which is the finest step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from fovea.errors import InvalidRequest
from fovea.v1 import tensor_pb2
from fovea.wire import basis_codec, tensors
from fovea.wire.basis import WireBasis

__all__ = ["most_tokens", "widest"]

# Widest first. float32 is not among them: no computation here is that exact.
_LADDER: Final = (
    tensor_pb2.DTYPE_FLOAT16,
    tensor_pb2.DTYPE_INT8,
    tensor_pb2.DTYPE_INT4,
    tensor_pb2.DTYPE_ENTROPY,
)
# A basis takes fewer bytes than the last two at the same accuracy.
_LADDER_WITH_BASIS: Final = (tensor_pb2.DTYPE_FLOAT16, tensor_pb2.DTYPE_INT8, tensor_pb2.DTYPE_BASIS)
# Quarters of an octave above the default to which the step is let grow before a whole picture is given up. Of a pruned
# one tokens are dropped first (docs/wire.md).
_COARSER_BEFORE_FEWER: Final = 4
_UNKNOWN_GRID: Final = (1000, 1000)  # patches, where pictures differ or frames add up
_MESSAGE_BYTES: Final = 64  # grid, shape, checksum, field tags and lengths


def most_tokens(
    max_bytes: int,
    *,
    visuals: int,
    channels: int,
    fingerprint: str,
    grid: tuple[int, int] | None,
    wire_dtype: tensor_pb2.DType = tensor_pb2.DTYPE_UNSPECIFIED,
    basis: WireBasis | None = None,
) -> int:
    """Visual tokens of each picture or video that `max_bytes` have room for.

    Args:
        max_bytes: Of all VisualTokens messages together.
        visuals: Pictures and videos that share them, evenly.
        channels: C of a token.
        fingerprint: That each message carries.
        grid: Rows and columns of patches; None where that differs, or there are videos.
        wire_dtype: The only one to consider; unspecified: any.
        basis: That is loaded.

    Raises:
        InvalidRequest: Not even one token a picture or video fits.
    """
    dtype = wire_dtype or _ladder(basis)[-1]
    rows, columns = grid or _UNKNOWN_GRID
    position_bytes = -(-(rows * columns - 1).bit_length() // 7)  # a varint

    def size(tokens: int) -> int:
        if dtype == tensor_pb2.DTYPE_BASIS and basis is not None:
            step = basis.step + (_COARSER_BEFORE_FEWER if tokens == basis.tokens_per_image else 0)
            data = basis_codec.expected_bytes(tokens, basis, step)
        else:
            data = tensors.data_bytes(tokens, channels, dtype)
        return _MESSAGE_BYTES + len(fingerprint) + position_bytes * tokens + data

    if (least := visuals * size(1)) > max_bytes:
        raise InvalidRequest(
            f"max_wire_bytes {max_bytes} has no room for one visual token a picture or video; at least {least}",
            param="max_wire_bytes",
        )
    low, high = 1, max_bytes  # size(low) fits, size(high) does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if visuals * size(middle) <= max_bytes else (low, middle)
    # A whole picture may take less than a part of it, for which a basis knows nothing of neighbours.
    whole = basis.tokens_per_image if basis is not None and dtype == tensor_pb2.DTYPE_BASIS else 0
    return whole if whole > low and visuals * size(whole) <= max_bytes else low


def widest(
    write: Callable[[tensor_pb2.DType, int | None], Sequence[tensor_pb2.VisualTokens]],
    features: Sequence[tensors.Float32Array],
    max_bytes: int,
    wire_dtype: tensor_pb2.DType = tensor_pb2.DTYPE_UNSPECIFIED,
    basis: WireBasis | None = None,
) -> Sequence[tensor_pb2.VisualTokens]:
    """The messages in the widest dtype in which they take at most `max_bytes`.

    Args:
        write: Makes them in a dtype, with a step of the basis; InvalidRequest where it cannot hold the features.
        features: Of each.
        max_bytes: Of all together, serialized.
        wire_dtype: The only one to consider; unspecified: any.
        basis: That is loaded.

    Raises:
        InvalidRequest: They fit in none.
    """
    least = 0
    ladder = _ladder(basis)
    for dtype in (wire_dtype,) if wire_dtype else ladder:
        try:
            for step in _steps(write, features, max_bytes, basis) if dtype == tensor_pb2.DTYPE_BASIS else (None,):
                messages = write(dtype, step)
                least = sum(message.ByteSize() for message in messages)
                if least <= max_bytes:
                    return messages
        except InvalidRequest:
            if dtype == (wire_dtype or ladder[-1]):
                raise
    raise InvalidRequest(
        f"the visual tokens take {least} bytes, more than max_wire_bytes {max_bytes}", param="max_wire_bytes"
    )


def _ladder(basis: WireBasis | None) -> Sequence[tensor_pb2.DType]:
    return _LADDER if basis is None else _LADDER_WITH_BASIS


def _steps(
    write: Callable[[tensor_pb2.DType, int | None], Sequence[tensor_pb2.VisualTokens]],
    features: Sequence[tensors.Float32Array],
    max_bytes: int,
    basis: WireBasis | None,
) -> Sequence[int | None]:
    """Steps to try in turn: the finest that should fit, and, as that is an estimate, those after it."""
    if basis is None:
        return (None,)  # `write` says that there is none
    around = sum(message.ByteSize() - len(message.features.data) for message in write(tensor_pb2.DTYPE_FLOAT32, None))
    return range(basis_codec.finest_step(features, basis, max_bytes - around), basis.coarsest + 1)
