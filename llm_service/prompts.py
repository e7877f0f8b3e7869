"""From a request on the wire to a `Prompt` that is safe to compute with.

An engine that is handed a wrong count, a wrong width or NaN may answer nonsense, take its batch-mates down or die. So
everything is checked here, and nothing behind this module needs to doubt its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fovea import tensors
from fovea.errors import CheckpointMismatch, InvalidRequest, ServiceError
from fovea.v1 import tensor_pb2

__all__ = ["Prompt", "PromptLimits", "VisualTokens", "read_prompt"]


@dataclass(frozen=True)
class PromptLimits:
    """What a loaded model accepts.

    Attributes:
        vocab_size: Ids are below it.
        image_token_id: The id that stands for a picture.
        visual_hidden_size: Channels C of visual tokens.
        max_visual_tokens: Most visual tokens in a request, all pictures together.
        max_model_len: Positions of prompt and answer together.
        fingerprint: Of the checkpoint; visual tokens of another one are refused.
    """

    vocab_size: int
    image_token_id: int
    visual_hidden_size: int
    max_visual_tokens: int
    max_model_len: int
    fingerprint: str


@dataclass(frozen=True)
class VisualTokens:
    """The kept visual tokens of one picture.

    Attributes:
        features: [K, C] float32, finite, before the projector.
        positions: [K] int64, distinct: the patch of the grid that each row stands for.
        grid: (frames, rows, columns) of the picture unpruned.
    """

    features: tensors.Float32Array
    positions: npt.NDArray[np.int64]
    grid: tuple[int, int, int]


@dataclass(frozen=True)
class Prompt:
    """Ids with one image token per picture, and the pictures in the order of those tokens."""

    input_ids: npt.NDArray[np.int64]
    visual_tokens: tuple[VisualTokens, ...]

    @property
    def num_tokens(self) -> int:
        """Positions that are prefilled: each image token gives way to its picture's K visual tokens."""
        return len(self.input_ids) + sum(len(v.positions) - 1 for v in self.visual_tokens)


def read_prompt(
    input_ids: Sequence[int], visual_tokens: Sequence[tensor_pb2.VisualTokens], limits: PromptLimits
) -> Prompt:
    """Checks everything about a prompt, cheapest first, and reads its tensors.

    Raises:
        InvalidRequest: Ids, image tokens, tensors or the length are not acceptable; says what would be.
        CheckpointMismatch: The visual tokens come from another checkpoint.
    """
    if not input_ids:
        raise InvalidRequest("the prompt is empty; at least 1 token id is needed", param="input_ids")
    num_visual_tokens = sum(len(message.positions) for message in visual_tokens)
    if num_visual_tokens > limits.max_visual_tokens:
        raise InvalidRequest(
            f"the request brings {num_visual_tokens} visual tokens; at most {limits.max_visual_tokens} are accepted",
            param="visual_tokens",
        )
    _check_length(len(input_ids) - len(visual_tokens) + num_visual_tokens, limits)
    ids = _read_ids(input_ids, len(visual_tokens), limits)
    return Prompt(ids, tuple(_read_visual_tokens(i, message, limits) for i, message in enumerate(visual_tokens)))


def _check_length(num_tokens: int, limits: PromptLimits) -> None:
    room = limits.max_model_len - 1  # at least one token is generated
    if num_tokens > room:
        raise InvalidRequest(
            f"the prompt has {num_tokens} tokens, visual tokens included, {num_tokens - room} more than the {room} that"
            f" the model's context of {limits.max_model_len} holds beside an answer",
            param="input_ids",
        )


def _read_ids(input_ids: Sequence[int], num_pictures: int, limits: PromptLimits) -> npt.NDArray[np.int64]:
    ids = np.array(input_ids, dtype=np.int64)
    if ids.max() >= limits.vocab_size:
        raise InvalidRequest(
            f"token id {ids.max()} is outside the vocabulary; ids are 0 to {limits.vocab_size - 1}", param="input_ids"
        )
    num_image_tokens = int((ids == limits.image_token_id).sum())
    if num_image_tokens != num_pictures:
        raise InvalidRequest(
            f"the prompt has {num_image_tokens} image tokens (id {limits.image_token_id}) for {num_pictures} pictures;"
            " each picture needs exactly one",
            param="input_ids",
        )
    return ids


def _read_visual_tokens(index: int, message: tensor_pb2.VisualTokens, limits: PromptLimits) -> VisualTokens:
    if message.fingerprint != limits.fingerprint:
        raise CheckpointMismatch(
            f"visual tokens of checkpoint {message.fingerprint[:16]!r} cannot be read by a model of checkpoint"
            f" {limits.fingerprint!r}; both services must load the same one",
            param="visual_tokens",
        )
    try:
        _check_shape(message, limits)
        positions, grid = _read_positions(message)
        max_bytes = limits.max_visual_tokens * limits.visual_hidden_size * 4
        features = tensors.from_message(message.features, max_bytes=max_bytes)
    except ServiceError as error:
        raise InvalidRequest(f"picture {index}: {error.message}", param="visual_tokens") from error
    return VisualTokens(features, positions, grid)


def _check_shape(message: tensor_pb2.VisualTokens, limits: PromptLimits) -> None:
    shape, count = list(message.features.shape), len(message.positions)
    if len(shape) != 2 or shape[1] != limits.visual_hidden_size:
        raise InvalidRequest(f"features of shape {shape[:8]} are not [K, {limits.visual_hidden_size}]")
    if not 1 <= shape[0] <= limits.max_visual_tokens:
        raise InvalidRequest(f"{shape[0]} visual tokens are not 1 to {limits.max_visual_tokens}")
    if shape[0] != count:
        raise InvalidRequest(f"{shape[0]} visual tokens come with {count} positions; each needs exactly one")


def _read_positions(message: tensor_pb2.VisualTokens) -> tuple[npt.NDArray[np.int64], tuple[int, int, int]]:
    grid = (message.grid.frames, message.grid.rows, message.grid.columns)
    positions = np.array(message.positions, dtype=np.int64)
    if math.prod(grid) == 0:
        raise InvalidRequest(f"a grid of {' x '.join(map(str, grid))} (frames x rows x columns) has no patches")
    if len(np.unique(positions)) < len(positions):
        raise InvalidRequest("a position comes twice; each token needs one of its own")
    if positions.max() >= math.prod(grid):
        raise InvalidRequest(
            f"position {positions.max()} is outside the grid of {' x '.join(map(str, grid))} patches;"
            f" positions are 0 to {math.prod(grid) - 1}"
        )
    return positions, grid
