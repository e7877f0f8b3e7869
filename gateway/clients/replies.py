"""Checks of replies, so that a broken service does not break the gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fovea.errors import ServiceError
from fovea.v1 import encoder_pb2, tensor_pb2
from fovea.wire.grids import check_grid

__all__ = ["RawReplies", "has_visual_tokens"]


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


def has_visual_tokens(reply: encoder_pb2.EncodeResponse, count: int, *, explain: bool) -> bool:
    """Whether a reply has valid visual tokens for `count` images and videos, and with `explain` their explanations."""
    tokens = reply.visual_tokens
    return (
        len(tokens) == len(reply.num_tokens_total) == count
        and all(map(_has_positions, tokens))
        and (not explain or len(reply.explanations) == count)
        and len(reply.viewed) in (0, count)
        and all(map(_is_box, reply.viewed))
        and all(map(_matches_tokens, reply.explanations, tokens))
    )


def _is_box(box: encoder_pb2.Box) -> bool:
    """Whether all sides are finite, and there is an area."""
    sides = (box.left, box.top, box.right, box.bottom)
    return bool(np.isfinite(sides).all()) and box.left < box.right and box.top < box.bottom


def _has_positions(tokens: tensor_pb2.VisualTokens) -> bool:
    try:
        end = check_grid(tokens.grid)
    except ServiceError:
        return False
    positions = tokens.positions
    return bool(positions) and tokens.features.shape[:1] == [len(positions)] and max(positions) < end


def _matches_tokens(explanation: encoder_pb2.Explanation, tokens: tensor_pb2.VisualTokens) -> bool:
    """Whether maps are empty or have one finite number for each patch, and merged patches point at existing tokens."""
    num_patches = tokens.grid.frames * tokens.grid.rows * tokens.grid.columns
    maps = (explanation.task_map, explanation.saliency_map)
    merged = np.array(explanation.merged_into, np.int64)
    return (
        all(len(values) in (0, num_patches) and np.isfinite(values).all() for values in (*maps, merged))
        and merged.min(initial=0) >= -1
        and merged.max(initial=0) < len(tokens.positions)
    )
