"""Qwen2.5-VL (arXiv 2502.13923): visual tokens arrive as wide as the language model, so there is nothing to project.

What is left to do is to put every kept token where it stood in its picture: positions have three axes, and text goes on
after the unpruned extent, as if nothing had been dropped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from fovea.modeling.compute import resolve_dtype
from fovea.modeling.configs import read_family_config
from fovea.modeling.errors import CheckpointError
from fovea.modeling.weights import assign_weights, read_tensors
from llm_service.models.base import ModelInputs, VisionLanguageModel
from llm_service.models.ending import eos_token_ids
from llm_service.models.splicing import splice
from llm_service.mrope import mrope_positions
from llm_service.prompts import Prompt, VisualTokens

__all__ = ["QwenLanguageModel"]

# That of transformers 5 in memory, then the hub's layout, then a language model saved as a part of its own.
_LANGUAGE_MODEL: Final = {
    "model.language_model.": "model.language_model.",
    "model.embed_tokens.": "model.language_model.embed_tokens.",
    "model.layers.": "model.language_model.layers.",
    "model.norm.": "model.language_model.norm.",
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "lm_head.": "lm_head.",
}
_EMBEDDINGS: Final = "model.language_model.embed_tokens.weight"


class QwenLanguageModel(VisionLanguageModel):
    """Language model of a Qwen2.5-VL checkpoint. See `VisionLanguageModel` for the attributes."""

    family = "qwen2_5_vl"
    has_newline = False
    has_grid_positions = True
    causal_lm: Any

    def __init__(
        self, config: Qwen2_5_VLConfig, end_token_ids: frozenset[int], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.vocab_size: int = config.text_config.vocab_size
        self.image_token_id: int = config.image_token_id
        self.video_token_id: int | None = config.video_token_id
        self.visual_hidden_size: int = config.text_config.hidden_size
        self.max_model_len: int = config.text_config.max_position_embeddings
        self.eos_token_ids = end_token_ids
        self.merge_size = config.vision_config.spatial_merge_size
        self._tokens_per_second: float = config.vision_config.tokens_per_second
        self._device = device
        self._dtype = dtype

    @classmethod
    def load(cls, checkpoint: Path, *, device: torch.device, dtype: str, attn_implementation: str) -> QwenLanguageModel:
        """Loads from a directory with config.json and *.safetensors; the vision tower is not read.

        Args:
            checkpoint: A directory in the hub's layout, or in that of transformers 5.
            device: Where the weights go.
            dtype: auto, float32, bfloat16 or float16 (`resolve_dtype`).
            attn_implementation: Attention kernel of transformers.

        Raises:
            CheckpointError: Tensors are missing or do not fit the config.
        """
        model = cls.load_visual(checkpoint, device=device, dtype=dtype)
        config = read_family_config(Qwen2_5_VLConfig, checkpoint)
        with torch.device("meta"):
            try:
                causal_lm = Qwen2_5_VLForConditionalGeneration._from_config(
                    config, attn_implementation=attn_implementation, dtype=model.dtype
                )
            except (ImportError, ValueError) as error:
                raise CheckpointError(f"attn_implementation {attn_implementation} cannot be used: {error}") from error
        # The tower belongs to the encoder service. Without it the class is what its forward does with embeddings alone.
        causal_lm.model.visual = None
        tensors = read_tensors(checkpoint, _LANGUAGE_MODEL, dtype=model.dtype, device=device)
        if config.tie_word_embeddings and _EMBEDDINGS in tensors:
            tensors.setdefault("lm_head.weight", tensors[_EMBEDDINGS])
        assign_weights(causal_lm, tensors, what="language model")
        # No checkpoint holds the table of rotary frequencies, so meta has no values for it.
        text = causal_lm.model.language_model
        text.rotary_emb = type(text.rotary_emb)(config=config.text_config).to(device)
        model.causal_lm = causal_lm
        return model

    @classmethod
    def load_visual(cls, checkpoint: Path, *, device: torch.device, dtype: str) -> QwenLanguageModel:
        """Nothing but the config; see `VisualSide.load_visual`."""
        config = read_family_config(Qwen2_5_VLConfig, checkpoint)
        compute_dtype = resolve_dtype(dtype, device, config.dtype, half_on_cuda=True)
        return cls(config, eos_token_ids(checkpoint, config.text_config), device, compute_dtype)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and computation."""
        return self._dtype

    def embed(self, prompt: Prompt) -> ModelInputs:
        """Embeds the ids and puts each visual's tokens in the place of the one that stands for it.

        Returns:
            L = `prompt.num_tokens` embeddings, at the positions that they have in the unpruned prompt.
        """
        words = self.causal_lm.get_input_embeddings()(torch.from_numpy(prompt.input_ids).to(self.device))
        visuals = [self.embed_visual(tokens) for tokens in prompt.visual_tokens]
        placeholders = prompt.placeholders(self.visual_token_ids)
        positions, next_position = mrope_positions(prompt, placeholders, self._tokens_per_second)
        return ModelInputs(
            splice(words, placeholders, visuals), torch.from_numpy(positions).to(self.device), next_position
        )

    def embed_visual(self, tokens: VisualTokens) -> torch.Tensor:
        """[`tokens.num_tokens`, H]: the features themselves."""
        return torch.from_numpy(tokens.features).to(self.device, self.dtype)
