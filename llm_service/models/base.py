"""What the engines need of a model family."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch

from llm_service.prompts import Prompt, VisualTokens

__all__ = ["ModelInputs", "VisionLanguageModel", "VisualSide"]


@dataclass(frozen=True)
class ModelInputs:
    """What the language model prefills for one row.

    Attributes:
        inputs_embeds: [L, H], visual tokens in their places.
        position_ids: [L] int64, or [3, L] where a position has three axes (M-RoPE).
        next_position: Of the first token decoded, on all axes.
    """

    inputs_embeds: torch.Tensor
    position_ids: torch.Tensor
    next_position: int


class VisualSide(Protocol):
    """What a family does with visual tokens before its language model reads them, and what its config says.

    An engine that loads language models by itself needs no more of a checkpoint than this.

    Attributes:
        family: As in the checkpoint's config ("llava").
        vocab_size: Ids are below it.
        image_token_id: Stands for a picture in `input_ids`.
        video_token_id: Stands for a video; None where the family takes none.
        has_newline: It reads a token of its own at the end of a line of tiles.
        has_grid_positions: A visual token stands where it did in its grid (M-RoPE), not after the token before it.
        merge_size: Patches on a side of what becomes one visual token.
        visual_hidden_size: Channels C of the visual tokens that arrive.
        max_model_len: Positions that the model knows.
        eos_token_ids: Any of them ends an answer.
        trims_answer: The prompt ends in a word ("ASSISTANT:"), so that white space before an answer's first word is the
            prompt's doing, and no part of the answer.
    """

    family: str
    vocab_size: int
    image_token_id: int
    video_token_id: int | None
    has_newline: bool
    has_grid_positions: bool = False
    merge_size: int = 1
    trims_answer: bool = False
    visual_hidden_size: int
    max_model_len: int
    eos_token_ids: frozenset[int]

    @classmethod
    def load_visual(cls, checkpoint: Path, *, device: torch.device, dtype: str) -> VisualSide:
        """From a directory with config.json and *.safetensors, of which neither tower nor language model is read.

        Raises:
            CheckpointError: Tensors are missing or do not fit the config.
        """
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of computation."""
        ...

    @property
    def visual_token_ids(self) -> tuple[int, ...]:
        """The ids that stand for pictures and videos."""
        return (self.image_token_id,) if self.video_token_id is None else (self.image_token_id, self.video_token_id)

    def embed_visual(self, tokens: VisualTokens) -> torch.Tensor:
        """[`tokens.num_tokens`, H]: what stands among the words for one picture or video."""
        ...


class VisionLanguageModel(VisualSide, Protocol):
    """A model family without its vision tower.

    Attributes:
        causal_lm: The language model, a transformers class with `forward(inputs_embeds, attention_mask, position_ids,
            past_key_values, ...)`.
    """

    causal_lm: Any

    @classmethod
    def load(cls, checkpoint: Path, *, device: torch.device, dtype: str, attn_implementation: str) -> Self:
        """From a directory with config.json and *.safetensors, of which only the language side is read.

        Raises:
            CheckpointError: Tensors are missing or do not fit the config.
        """
        ...

    def embed(self, prompt: Prompt) -> ModelInputs:
        """Puts the visual tokens into the places of their image tokens."""
        ...
