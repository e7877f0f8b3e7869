"""Tokens x bits for a budget of bytes.

In the small world a token less costs more than a bit less (docs/wire.md). So a budget first decides how many tokens
fit in the narrowest dtype, and then, when it is known how many there are, which is the widest dtype that they fit in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from fovea import tensors
from fovea.errors import InvalidRequest
from fovea.v1 import tensor_pb2

__all__ = ["most_tokens", "widest"]

# Widest first. float32 is not among them: no computation here is that exact.
_LADDER: Final = (
    tensor_pb2.DTYPE_FLOAT16,
    tensor_pb2.DTYPE_INT8,
    tensor_pb2.DTYPE_INT4,
    tensor_pb2.DTYPE_ENTROPY,
)
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
) -> int:
    """Visual tokens of each picture or video that `max_bytes` have room for.

    Args:
        max_bytes: Of all VisualTokens messages together.
        visuals: Pictures and videos that share them, evenly.
        channels: C of a token.
        fingerprint: That each message carries.
        grid: Rows and columns of patches; None where that differs, or there are videos.
        wire_dtype: The only one to consider; unspecified: any.

    Raises:
        InvalidRequest: Not even one token a picture or video fits.
    """
    dtype = wire_dtype or _LADDER[-1]
    rows, columns = grid or _UNKNOWN_GRID
    position_bytes = -(-(rows * columns - 1).bit_length() // 7)  # a varint

    def size(tokens: int) -> int:
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
    return low


def widest(
    write: Callable[[tensor_pb2.DType], Sequence[tensor_pb2.VisualTokens]],
    max_bytes: int,
    wire_dtype: tensor_pb2.DType = tensor_pb2.DTYPE_UNSPECIFIED,
) -> Sequence[tensor_pb2.VisualTokens]:
    """The messages in the widest dtype in which they take at most `max_bytes`.

    Args:
        write: Makes them in a dtype; InvalidRequest where it cannot hold the features.
        max_bytes: Of all together, serialized.
        wire_dtype: The only one to consider; unspecified: any.

    Raises:
        InvalidRequest: They fit in none.
    """
    least = 0
    for dtype in (wire_dtype,) if wire_dtype else _LADDER:
        try:
            messages = write(dtype)
        except InvalidRequest:
            if dtype == (wire_dtype or _LADDER[-1]):
                raise
            continue
        least = sum(message.ByteSize() for message in messages)
        if least <= max_bytes:
            return messages
    raise InvalidRequest(
        f"the visual tokens take {least} bytes, more than max_wire_bytes {max_bytes}", param="max_wire_bytes"
    )
