"""Interface between the engines and the model families."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch

from llm_service.prompts import Prompt, VisualTokens

__all__ = ["ModelInputs", "VisionLanguageModel", "VisualEmbedder"]


@dataclass(frozen=True)
class ModelInputs:
    """Inputs of the language model for the prefill of one prompt.

    Attributes:
        inputs_embeds: [L, H] embeddings of text and visual tokens.
        position_ids: [L] int64, or [3, L] for position ids with three axes (M-RoPE).
        next_position_id: Position id of the first decoded token, on all axes.
        planes: [P, L, H] DeepStack planes: plane i is added to the hidden states after layer i. 0 at text. None for a
            family without them.
    """

    inputs_embeds: torch.Tensor
    position_ids: torch.Tensor
    next_position_id: int
    planes: torch.Tensor | None = None

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return len(self.inputs_embeds)


class VisualEmbedder(Protocol):
    """The steps of a family between visual tokens and its language model, and the values of its config.

    Sufficient for an engine that loads language models by itself.

    Attributes:
        family: Name of the family, as in the checkpoint's config ("llava").
        vocab_size: Number of token ids.
        image_token_id: Placeholder id of an image in `input_ids`.
        video_token_id: Placeholder id of a video; None for families without video.
        has_newline: Flag: the model has a line-end token for tiled images.
        has_grid_positions: Flag: position ids follow the grid (M-RoPE); otherwise they count tokens.
        frame_token_ids: Start of vision, placeholder and end of vision of a frame, for a family that writes videos
            frame by frame, with times as text (`FramePrompt`); None for other families.
        num_planes: Number P of DeepStack planes of a visual token.
        merge_size: Side, in patches, of the square that becomes one visual token.
        trims_answer: Flag: the prompt ends in text ("ASSISTANT:") after which the model begins its answer with white
            space that is not part of the answer.
        visual_hidden_size: Channels C of arriving visual tokens.
        max_model_len: Positions of the model's context.
        config_eos_token_ids: End tokens of config.json, empty if it has none; `read_generation_defaults` has those of
            the checkpoint.
    """

    family: str
    vocab_size: int
    image_token_id: int
    video_token_id: int | None
    has_newline: bool
    has_grid_positions: bool = False
    frame_token_ids: tuple[int, int, int] | None = None
    num_planes: int = 0
    merge_size: int = 1
    trims_answer: bool = False
    visual_hidden_size: int
    max_model_len: int
    config_eos_token_ids: frozenset[int]

    @classmethod
    def load_visual_embedder(cls, checkpoint: Path, *, device: torch.device, dtype: str) -> VisualEmbedder:
        """Loads from a directory with config.json and *.safetensors; reads neither tower nor language model.

        Raises:
            CheckpointError: Tensors are missing or do not fit the config.
        """
        ...

    @property
    def device(self) -> torch.device:
        """Device of the computation."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the computation."""
        ...

    @property
    def visual_token_ids(self) -> tuple[int, ...]:
        """Placeholder ids of images and videos."""
        return (self.image_token_id,) if self.video_token_id is None else (self.image_token_id, self.video_token_id)

    def embed_visual(self, tokens: VisualTokens) -> torch.Tensor:
        """[`tokens.num_tokens`, H] input embeddings of one image or video."""
        ...


class VisionLanguageModel(VisualEmbedder, Protocol):
    """A model family without its vision tower.

    Attributes:
        causal_lm: The language model, a transformers class with `forward(inputs_embeds, attention_mask, position_ids,
            past_key_values, ...)`. That of a family with DeepStack takes `planes` [P, b, L, H], too.
    """

    causal_lm: Any

    @classmethod
    def load(cls, checkpoint: Path, *, device: torch.device, dtype: str, attn_implementation: str) -> Self:
        """Loads from a directory with config.json and *.safetensors; does not read the tower.

        Raises:
            CheckpointError: Tensors are missing or do not fit the config.
        """
        ...

    def embed(self, prompt: Prompt) -> ModelInputs:
        """Embeds a prompt: each placeholder is replaced by the embedded tokens of its image or video."""
        ...
