"""What a reply must be before the gateway computes with it: a service that is broken must not break its callers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fovea.errors import ServiceError
from fovea.v1 import encoder_pb2, tensor_pb2
from fovea.wire.grids import check_grid

__all__ = ["RawReplies", "has_visual_tokens"]


class RawReplies:
    """A channel whose calls give replies as bytes, for stubs: gRPC's own parsing would make objects of any number."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def unary_unary(self, method: str, request_serializer: Callable[[Any], bytes], **options: Any) -> Any:
        """A method that answers once."""
        return self._channel.unary_unary(method, request_serializer, **{**options, "response_deserializer": None})

    def unary_stream(self, method: str, request_serializer: Callable[[Any], bytes], **options: Any) -> Any:
        """A method that answers several times."""
        return self._channel.unary_stream(method, request_serializer, **{**options, "response_deserializer": None})


def has_visual_tokens(reply: encoder_pb2.EncodeResponse, count: int, *, explain: bool) -> bool:
    """Whether there are visual tokens, each with its position, for `count` pictures and videos; and explanations."""
    tokens = reply.visual_tokens
    return (
        len(tokens) == len(reply.num_tokens_total) == count
        and all(map(_has_positions, tokens))
        and (not explain or len(reply.explanations) == count)
        and all(map(_fits, reply.explanations, tokens))
    )


def _has_positions(tokens: tensor_pb2.VisualTokens) -> bool:
    try:
        end = check_grid(tokens.grid)
    except ServiceError:
        return False
    positions = tokens.positions
    return bool(positions) and tokens.features.shape[:1] == [len(positions)] and max(positions) < end


def _fits(explanation: encoder_pb2.Explanation, tokens: tensor_pb2.VisualTokens) -> bool:
    """Maps are empty or have a finite number for each patch; patches were merged into tokens that there are."""
    num_patches = tokens.grid.frames * tokens.grid.rows * tokens.grid.columns
    maps = (explanation.task_map, explanation.saliency_map)
    merged = np.array(explanation.merged_into, np.int64)
    return (
        all(len(one) in (0, num_patches) and np.isfinite(one).all() for one in (*maps, merged))
        and merged.min(initial=0) >= -1
        and merged.max(initial=0) < len(tokens.positions)
    )
