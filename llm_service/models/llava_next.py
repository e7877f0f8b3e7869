"""LLaVA-NeXT: LLaVA-1.5's projector, a Llama or Mistral, and a learned line-end token, `image_newline`.

The order of an unpruned image is that of transformers: the base tile, then the other tiles as one mosaic with a
line-end token after each of its lines. The encoder service sends the line ends (`newline_after`); a pruned image has
none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from transformers import LlavaNextConfig
from transformers.models.llava_next.modeling_llava_next import LlavaNextMultiModalProjector

from fovea.modeling.errors import CheckpointError
from fovea.modeling.transfers import to_device
from fovea.modeling.weights import read_tensors
from llm_service.models.llava import LlavaLanguageModel
from llm_service.prompts import VisualTokens

__all__ = ["LlavaNextLanguageModel"]

# Names on the hub and in transformers 5.
_NEWLINE: Final = {"image_newline": "image_newline", "model.image_newline": "image_newline"}


class LlavaNextLanguageModel(LlavaLanguageModel):
    """Language model, projector and line-end token of a LLaVA-NeXT checkpoint. See `VisionLanguageModel`.

    Attributes:
        image_newline: [H] embedding of the line-end token.
    """

    family = "llava_next"
    has_newline = True
    config_class: type[Any] = LlavaNextConfig
    projector_class: type[Any] = LlavaNextMultiModalProjector
    image_newline: torch.Tensor

    def __init__(self, config: Any, projector: Any) -> None:
        super().__init__(config, projector)
        # Vicuna's prompt ends in "ASSISTANT:", Mistral's in "[/INST]".
        self.trims_answer = config.text_config.model_type == "llama"

    @classmethod
    def load_visual_embedder(cls, checkpoint: Path, *, device: torch.device, dtype: str) -> Self:
        """Loads the projector and the line-end token; see `VisualEmbedder.load_visual_embedder`."""
        model = super().load_visual_embedder(checkpoint, device=device, dtype=dtype)
        tensors = read_tensors(checkpoint, _NEWLINE, dtype=model.dtype, device=device)
        width = model.projector.linear_2.out_features
        if "image_newline" not in tensors or tensors["image_newline"].shape != (width,):
            raise CheckpointError(f"{checkpoint.name!r} has no image_newline of {width} channels")
        model.image_newline = tensors["image_newline"]
        return model

    def embed_visual(self, tokens: VisualTokens) -> torch.Tensor:
        """[`tokens.num_tokens`, H] projected tokens, with `image_newline` at the line ends."""
        projected = super().embed_visual(tokens)
        if not len(tokens.newline_after):
            return projected
        count = len(projected)
        index = np.insert(np.arange(count), tokens.newline_after + 1, count)
        return torch.cat([projected, self.image_newline[None]])[to_device(torch.from_numpy(index), self.device)]
