"""Validation of a request's prompt.

A wrong count, a wrong width or NaN can make an engine produce nonsense, fail the whole batch or crash. Everything is
validated here, so that the engines need no checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from fovea.errors import CheckpointMismatch, InvalidRequest, ServiceError
from fovea.v1 import tensor_pb2
from fovea.wire import tensors
from fovea.wire.basis import WireBasis
from fovea.wire.grids import check_grid
from llm_service.frame_prompt import FramePrompt

__all__ = ["Prompt", "PromptLimits", "VisualTokens", "read_prompt", "visual_token_bytes"]

IntArray = npt.NDArray[np.int64]

# Limit for a frame of the grid, which may combine two frames of the video.
_MAX_SECONDS_PER_FRAME: Final = 7200.0
_MAX_FRAME_TIME: Final = 10_000_000.0


@dataclass(frozen=True)
class PromptLimits:
    """Limits of a loaded model for prompts.

    Attributes:
        vocab_size: Number of token ids.
        image_token_id: Token id of the placeholder of an image.
        visual_hidden_size: Number of channels C of a visual token.
        max_visual_tokens: Maximum number of visual tokens in a request, all images and videos together.
        max_model_len: Maximum number of positions of prompt and answer together.
        fingerprint: Fingerprint of the checkpoint; visual tokens of another one are refused.
        video_token_id: Token id of the placeholder of a video; None for a model without video.
        has_newline: Whether the model has a line-end token for tiled images.
        has_grid_positions: Whether position ids follow the grid. Every visual token must then be a patch.
        wire_basis: Basis of the wire format `basis`; if None, tokens in that format are refused.
        num_planes: Number P of DeepStack planes that every visual token has.
        frame_prompt: Writer of the times of frames for a family that reads them as text; None for other families.
    """

    vocab_size: int
    image_token_id: int
    visual_hidden_size: int
    max_visual_tokens: int
    max_model_len: int
    fingerprint: str
    video_token_id: int | None = None
    has_newline: bool = False
    has_grid_positions: bool = False
    wire_basis: WireBasis | None = None
    num_planes: int = 0
    frame_prompt: FramePrompt | None = None

    @property
    def visual_token_ids(self) -> tuple[int, ...]:
        """Token ids of the placeholders of images and videos."""
        return (self.image_token_id,) if self.video_token_id is None else (self.image_token_id, self.video_token_id)


@dataclass(frozen=True)
class VisualTokens:
    """The kept visual tokens of one image or video, or of one frame of a video that is written frame by frame.

    Attributes:
        features: [K, C] float32, finite.
        positions: [K] int64, distinct grid positions; a token without a patch has a number after all patches.
        grid: (frames, rows, columns) before pruning.
        newline_after: Ascending indices of the visual tokens after which a line-end token is inserted. A repeated index
            inserts one more.
        is_video: Whether the tokens belong to a video.
        seconds_per_frame: Seconds from one frame of a video to the next; 0 if unknown.
        planes: DeepStack planes, P arrays like `features`.
    """

    features: tensors.Float32Array
    positions: IntArray
    grid: tuple[int, int, int]
    newline_after: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    is_video: bool = False
    seconds_per_frame: float = 0.0
    planes: tuple[tensors.Float32Array, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Number of prefilled tokens: K visual tokens and the line-end tokens."""
        return len(self.positions) + len(self.newline_after)

    def by_frame(self) -> list[VisualTokens]:
        """The tokens of each frame, on the grid of one frame; a frame of which none is kept has no tokens."""
        frames, rows, columns = self.grid
        frame, patch = np.divmod(self.positions, rows * columns)
        order = np.argsort(frame, kind="stable")
        bounds = np.searchsorted(frame[order], np.arange(1, frames))
        return [
            replace(
                self,
                features=self.features[indices],
                positions=patch[indices],
                grid=(1, rows, columns),
                planes=tuple(plane[indices] for plane in self.planes),
            )
            for indices in np.split(order, bounds)
        ]


@dataclass(frozen=True)
class Prompt:
    """A validated prompt.

    Attributes:
        input_ids: [T] token ids with one placeholder for each image and video, or for each frame of a video.
        visual_tokens: Visual tokens in the order of the placeholders.
    """

    input_ids: IntArray
    visual_tokens: tuple[VisualTokens, ...]

    @property
    def num_tokens(self) -> int:
        """Number of prefilled tokens, with placeholders replaced by visual tokens."""
        return len(self.input_ids) + sum(v.num_tokens - 1 for v in self.visual_tokens)

    def placeholders(self, visual_token_ids: Sequence[int]) -> IntArray:
        """Indices of the placeholders in `input_ids`, one for each of `visual_tokens`."""
        return np.isin(self.input_ids, visual_token_ids).nonzero()[0]


def visual_token_bytes(visual_tokens: Sequence[tensor_pb2.VisualTokens], limits: PromptLimits) -> int:
    """Upper bound of the bytes of the features that `read_prompt` decodes."""
    count = sum(len(message.positions) for message in visual_tokens)
    return min(count, limits.max_visual_tokens) * (1 + limits.num_planes) * limits.visual_hidden_size * 4


def read_prompt(
    input_ids: Sequence[int], visual_tokens: Sequence[tensor_pb2.VisualTokens], limits: PromptLimits
) -> Prompt:
    """Validates a prompt, cheapest checks first, and decodes its tensors.

    Raises:
        InvalidRequest: Ids, placeholders, tensors or the length are not accepted. The message states what is accepted.
        CheckpointMismatch: The visual tokens come from another checkpoint or use another wire basis.
    """
    if not input_ids:
        raise InvalidRequest("the prompt is empty; at least 1 token id is needed", param="input_ids")
    num_visual_tokens = sum(len(message.positions) + len(message.newline_after) for message in visual_tokens)
    if num_visual_tokens > limits.max_visual_tokens:
        raise InvalidRequest(
            f"the request has {num_visual_tokens} visual tokens; at most {limits.max_visual_tokens} are accepted",
            param="visual_tokens",
        )
    _check_length(len(input_ids) - len(visual_tokens) + num_visual_tokens, limits)
    ids = _read_ids(input_ids, visual_tokens, limits)
    prompt = Prompt(ids, tuple(_read_visual_tokens(i, message, limits) for i, message in enumerate(visual_tokens)))
    if limits.frame_prompt is None:
        return prompt
    prompt = _by_frame(prompt, visual_tokens, limits, limits.frame_prompt)
    _check_length(prompt.num_tokens, limits)
    return prompt


def _by_frame(
    prompt: Prompt, messages: Sequence[tensor_pb2.VisualTokens], limits: PromptLimits, frame_prompt: FramePrompt
) -> Prompt:
    """The prompt with each video written frame by frame."""
    parts: list[IntArray] = []
    visual_tokens: list[VisualTokens] = []
    start = 0
    placeholders = prompt.placeholders(limits.visual_token_ids).tolist()
    for placeholder, tokens, message in zip(placeholders, prompt.visual_tokens, messages, strict=True):
        if tokens.is_video:
            parts += [prompt.input_ids[start:placeholder], np.array(frame_prompt.ids(message.frame_times))]
            visual_tokens += tokens.by_frame()
            start = placeholder + 1
        else:
            visual_tokens.append(tokens)
    return Prompt(np.concatenate([*parts, prompt.input_ids[start:]]), tuple(visual_tokens))


def _check_length(num_tokens: int, limits: PromptLimits) -> None:
    longest = limits.max_model_len - 1  # at least one token is generated
    if num_tokens > longest:
        raise InvalidRequest(
            f"the prompt has {num_tokens} tokens, visual tokens included, {num_tokens - longest} more than the"
            f" {longest} that the model's context of {limits.max_model_len} holds beside an answer",
            param="input_ids",
        )


def _read_ids(
    input_ids: Sequence[int], visual_tokens: Sequence[tensor_pb2.VisualTokens], limits: PromptLimits
) -> IntArray:
    ids = np.array(input_ids, dtype=np.int64)
    if ids.max() >= limits.vocab_size:
        raise InvalidRequest(
            f"token id {ids.max()} is outside the vocabulary; ids are 0 to {limits.vocab_size - 1}", param="input_ids"
        )
    is_video = [message.kind == tensor_pb2.VISUAL_KIND_VIDEO for message in visual_tokens]
    if any(is_video) and limits.video_token_id is None:
        raise InvalidRequest("this model accepts images only, no videos", param="visual_tokens")
    expected = [limits.video_token_id if video else limits.image_token_id for video in is_video]
    if ids[np.isin(ids, limits.visual_token_ids)].tolist() != expected:
        num_image_tokens = int((ids == limits.image_token_id).sum())
        found = f"{num_image_tokens} image tokens (id {limits.image_token_id})"
        if limits.video_token_id is not None:
            found += f" and {int((ids == limits.video_token_id).sum())} video tokens (id {limits.video_token_id})"
        raise InvalidRequest(
            f"the prompt has {found} for {len(is_video) - sum(is_video)} images"
            + (f" and {sum(is_video)} videos" if limits.video_token_id is not None else "")
            + "; each needs exactly one, in their order",
            param="input_ids",
        )
    return ids


def _read_visual_tokens(index: int, message: tensor_pb2.VisualTokens, limits: PromptLimits) -> VisualTokens:
    if message.fingerprint != limits.fingerprint:
        raise CheckpointMismatch(
            f"visual tokens of checkpoint {message.fingerprint[:16]!r} do not fit the model of checkpoint"
            f" {limits.fingerprint!r}; both services must load the same one",
            param="visual_tokens",
        )
    try:
        _check_shape(message, limits)
        positions, grid = _read_positions(message, limits)
        newline_after = _read_newlines(message, limits)
        seconds_per_frame = _read_seconds(message)
        _check_frame_times(message, limits)
        max_bytes = limits.max_visual_tokens * limits.visual_hidden_size * 4
        features, *planes = (
            tensors.from_message(tensor, max_bytes=max_bytes, basis=limits.wire_basis)
            for tensor in (message.features, *message.planes)
        )
    except CheckpointMismatch:  # the services have different wire bases, which is not an error in the request
        raise
    except ServiceError as error:
        raise InvalidRequest(f"visual_tokens[{index}]: {error.message}", param="visual_tokens") from error
    is_video = message.kind == tensor_pb2.VISUAL_KIND_VIDEO
    return VisualTokens(features, positions, grid, newline_after, is_video, seconds_per_frame, tuple(planes))


def _check_shape(message: tensor_pb2.VisualTokens, limits: PromptLimits) -> None:
    if message.kind not in tensor_pb2.VisualKind.values():
        raise InvalidRequest(f"kind {message.kind} is not one of {', '.join(tensor_pb2.VisualKind.keys())}")
    shape, count = list(message.features.shape), len(message.positions)
    if len(shape) != 2 or shape[1] != limits.visual_hidden_size:
        raise InvalidRequest(f"features of shape {shape[:8]} are not [K, {limits.visual_hidden_size}]")
    if not 1 <= shape[0] <= limits.max_visual_tokens:
        raise InvalidRequest(f"{shape[0]} visual tokens are not 1 to {limits.max_visual_tokens}")
    if shape[0] != count:
        raise InvalidRequest(f"{shape[0]} visual tokens come with {count} positions; each needs exactly one")
    if len(message.planes) != limits.num_planes:
        raise InvalidRequest(
            f"the visual tokens have {len(message.planes)} DeepStack planes; this model takes {limits.num_planes}"
        )
    for plane in message.planes:
        if list(plane.shape) != shape:
            raise InvalidRequest(f"a plane of shape {list(plane.shape)[:8]} is not {shape}, the shape of the features")


def _read_positions(message: tensor_pb2.VisualTokens, limits: PromptLimits) -> tuple[IntArray, tuple[int, int, int]]:
    grid = (message.grid.frames, message.grid.rows, message.grid.columns)
    end = check_grid(message.grid)
    if limits.has_grid_positions:
        _check_grid_positions(message.grid, limits)
    positions = np.array(message.positions, dtype=np.int64)
    if len(np.unique(positions)) < len(positions):
        raise InvalidRequest("a position occurs twice; positions must be distinct")
    if positions.max() >= end:
        raise InvalidRequest(
            f"position {positions.max()} is outside the grid of {' x '.join(map(str, grid))} patches;"
            f" positions are 0 to {end - 1}"
        )
    return positions, grid


def _check_grid_positions(grid: tensor_pb2.Grid, limits: PromptLimits) -> None:
    if grid.cls_per_frame:
        raise InvalidRequest("cls_per_frame must be 0: this model accepts visual tokens with a grid position only")
    if max(grid.frames, grid.rows, grid.columns) > limits.max_model_len:
        raise InvalidRequest(
            f"a grid of {grid.frames} x {grid.rows} x {grid.columns} (frames x rows x columns) reaches past the"
            f" model's context of {limits.max_model_len} positions"
        )


def _read_newlines(message: tensor_pb2.VisualTokens, limits: PromptLimits) -> IntArray:
    newline_after = np.array(message.newline_after, dtype=np.int64)
    if not len(newline_after):
        return newline_after
    if not limits.has_newline:
        raise InvalidRequest("newline_after is not accepted: this model has no line-end token")
    if (np.diff(newline_after) < 0).any() or newline_after[-1] >= len(message.positions):
        raise InvalidRequest("newline_after must hold indices of visual tokens in ascending order")
    return newline_after


def _check_frame_times(message: tensor_pb2.VisualTokens, limits: PromptLimits) -> None:
    times, is_video = message.frame_times, message.kind == tensor_pb2.VISUAL_KIND_VIDEO
    expected = message.grid.frames if is_video and limits.frame_prompt is not None else 0
    if len(times) != expected:
        raise InvalidRequest(f"there are {len(times)} frame_times; {expected} are needed here")
    if not all(0 <= time <= _MAX_FRAME_TIME for time in times):  # also refuses NaN
        raise InvalidRequest(f"frame_times has a number that is not one of 0 to {_MAX_FRAME_TIME:g}")


def _read_seconds(message: tensor_pb2.VisualTokens) -> float:
    seconds = message.seconds_per_frame
    if not 0 <= seconds <= _MAX_SECONDS_PER_FRAME:  # also refuses NaN
        raise InvalidRequest(f"seconds_per_frame is not a number of 0 to {_MAX_SECONDS_PER_FRAME:g}")
    return float(seconds)
