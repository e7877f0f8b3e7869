"""LLaVA-NeXT: LLaVA-1.5's projector, a Llama or Mistral, and a learned row at the end of each line of tiles.

A whole picture is read as transformers reads it: the base tile, then the mosaic of the others, each of its lines
followed by that row. The encoder service says where lines end (`newline_after`); in a pruned picture none does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from transformers import LlavaNextConfig
from transformers.models.llava_next.modeling_llava_next import LlavaNextMultiModalProjector

from fovea.modeling.errors import CheckpointError
from fovea.modeling.weights import read_tensors
from llm_service.models.llava import LlavaLanguageModel
from llm_service.prompts import VisualTokens

__all__ = ["LlavaNextLanguageModel"]

# On the hub, and as transformers 5 names it.
_NEWLINE: Final = {"image_newline": "image_newline", "model.image_newline": "image_newline"}


class LlavaNextLanguageModel(LlavaLanguageModel):
    """Language model, projector and end-of-line row of a LLaVA-NeXT checkpoint. See `VisionLanguageModel`."""

    family = "llava_next"
    has_newline = True
    config_class: type[Any] = LlavaNextConfig
    projector_class: type[Any] = LlavaNextMultiModalProjector
    image_newline: torch.Tensor  # [H]

    def __init__(self, config: Any, projector: Any, eos_token_ids: frozenset[int]) -> None:
        super().__init__(config, projector, eos_token_ids)
        # Vicuna's prompt ends in "ASSISTANT:", Mistral's in "[/INST]".
        self.trims_answer = config.text_config.model_type == "llama"

    @classmethod
    def load_visual(cls, checkpoint: Path, *, device: torch.device, dtype: str) -> Self:
        """The projector and the end-of-line row; see `VisualSide.load_visual`."""
        model = super().load_visual(checkpoint, device=device, dtype=dtype)
        found = read_tensors(checkpoint, _NEWLINE, dtype=model.dtype, device=device)
        width = model.projector.linear_2.out_features
        if "image_newline" not in found or found["image_newline"].shape != (width,):
            raise CheckpointError(f"{checkpoint.name!r} holds no image_newline of {width} channels")
        model.image_newline = found["image_newline"]
        return model

    def embed_visual(self, tokens: VisualTokens) -> torch.Tensor:
        """[`tokens.num_tokens`, H]: projected rows, and `image_newline` where lines end."""
        projected = super().embed_visual(tokens)
        if not len(tokens.newline_after):
            return projected
        count = len(projected)
        index = np.insert(np.arange(count), tokens.newline_after + 1, count)
        return torch.cat([projected, self.image_newline[None]])[torch.from_numpy(index).to(self.device)]
