"""Checks of replies, so that a broken service does not break the gateway."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from fovea.errors import ServiceError
from fovea.v1 import encoder_pb2, tensor_pb2
from fovea.wire.grids import check_grid

__all__ = ["Box", "RawReplies", "box_of", "has_visual_tokens", "shows_image"]

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom."""


class RawReplies:
    """A channel for stubs that returns replies as bytes. gRPC's own parsing would create objects without a limit."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def unary_unary(self, method: str, request_serializer: Callable[[Any], bytes], **options: Any) -> Any:
        """A call with one reply."""
        return self._channel.unary_unary(method, request_serializer, **{**options, "response_deserializer": None})

    def unary_stream(self, method: str, request_serializer: Callable[[Any], bytes], **options: Any) -> Any:
        """A call with a stream of replies."""
        return self._channel.unary_stream(method, request_serializer, **{**options, "response_deserializer": None})


def has_visual_tokens(reply: encoder_pb2.EncodeResponse, *, num_images: int, num_videos: int, explain: bool) -> bool:
    """Whether a reply has valid visual tokens for images, then videos, and with `explain` their explanations."""
    tokens, count = reply.visual_tokens, num_images + num_videos
    return (
        len(tokens) == len(reply.num_tokens_total) == count
        and all((one.kind == tensor_pb2.VISUAL_KIND_VIDEO) == (i >= num_images) for i, one in enumerate(tokens))
        and all(map(_has_positions, tokens))
        and (not explain or len(reply.explanations) == count)
        and len(reply.viewed) in (0, count)
        and all(map(shows_image, map(box_of, reply.viewed)))
        and math.isfinite(reply.timing.queue_ms)
        and all(map(_matches_tokens, reply.explanations, tokens))
    )


def box_of(message: encoder_pb2.Box) -> Box:
    """Left, top, right and bottom, with the seven digits that the message's single precision holds."""
    return round(message.left, 7), round(message.top, 7), round(message.right, 7), round(message.bottom, 7)


def shows_image(box: Box) -> bool:
    """Whether a box is finite, has an area, and covers a part of the image."""
    left, top, right, bottom = box
    return all(map(math.isfinite, box)) and max(left, 0) < min(right, 1) and max(top, 0) < min(bottom, 1)


def _has_positions(tokens: tensor_pb2.VisualTokens) -> bool:
    try:
        end = check_grid(tokens.grid)
    except ServiceError:
        return False
    positions, shape = tokens.positions, tokens.features.shape
    has_shape = shape[:1] == [len(positions)] and all(plane.shape == shape for plane in tokens.planes)
    return bool(positions) and has_shape and max(positions) < end


def _matches_tokens(explanation: encoder_pb2.Explanation, tokens: tensor_pb2.VisualTokens) -> bool:
    """Whether maps are empty or have one finite number for each patch, and merged patches point at existing tokens."""
    num_patches = tokens.grid.frames * tokens.grid.rows * tokens.grid.columns
    maps = (explanation.task_map, explanation.saliency_map)
    merged = explanation.merged_into
    return (
        all(len(values) in (0, num_patches) for values in (*maps, merged))
        and all(all(map(math.isfinite, values)) for values in maps)
        and min(merged, default=-1) >= -1
        and max(merged, default=-1) < len(tokens.positions)
    )
