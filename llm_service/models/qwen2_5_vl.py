"""Qwen2.5-VL (arXiv 2502.13923): visual tokens arrive with the width of the language model and need no projector.

Position ids have three axes (M-RoPE). A kept token has the position ids of the unpruned prompt, and so has the text
after an image or video.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Self

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from fovea.modeling.compute import resolve_dtype
from fovea.modeling.configs import read_family_config
from fovea.modeling.errors import CheckpointError
from fovea.modeling.transfers import to_device
from fovea.modeling.weights import assign_weights, read_tensors
from llm_service.models.base import ModelInputs, VisionLanguageModel
from llm_service.models.generation_config import as_token_ids
from llm_service.models.placeholders import expand_placeholders
from llm_service.mrope import mrope_position_ids, position_ids_per_second
from llm_service.prompts import Prompt, VisualTokens

__all__ = ["QwenLanguageModel"]

# Prefixes of transformers 5 in memory, then of the hub, then of a language model nested under its own name.
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
    config_class: type[Any] = Qwen2_5_VLConfig
    causal_lm: Any

    def __init__(self, config: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.vocab_size: int = config.text_config.vocab_size
        self.image_token_id: int = config.image_token_id
        self.video_token_id: int | None = config.video_token_id
        self.visual_hidden_size: int = config.text_config.hidden_size
        self.max_model_len: int = config.text_config.max_position_embeddings
        self.config_eos_token_ids = as_token_ids(config.text_config.eos_token_id)
        self.merge_size = config.vision_config.spatial_merge_size
        self._tokens_per_second = position_ids_per_second(config.vision_config)
        self._device = device
        self._dtype = dtype

    @classmethod
    def load(cls, checkpoint: Path, *, device: torch.device, dtype: str, attn_implementation: str) -> Self:
        """Loads from a directory with config.json and *.safetensors; the vision tower is not read.

        Args:
            checkpoint: Directory in the hub's layout or in that of transformers 5.
            device: Device of the weights.
            dtype: Name auto, float32, bfloat16 or float16; see `resolve_dtype`.
            attn_implementation: Attention kernel of transformers.

        Raises:
            CheckpointError: Tensors are missing or do not fit the config.
        """
        model = cls.load_visual_embedder(checkpoint, device=device, dtype=dtype)
        config = read_family_config(cls.config_class, checkpoint)
        with torch.device("meta"):
            try:
                causal_lm = cls._empty_causal_lm(config, attn_implementation, model.dtype)
            except (ImportError, ValueError) as error:
                raise CheckpointError(f"attn_implementation {attn_implementation} cannot be used: {error}") from error
        tensors = read_tensors(checkpoint, _LANGUAGE_MODEL, dtype=model.dtype, device=device)
        if config.tie_word_embeddings and _EMBEDDINGS in tensors:
            tensors.setdefault("lm_head.weight", tensors[_EMBEDDINGS])
        assign_weights(causal_lm, tensors, what="language model")
        # Rotary frequencies are in no checkpoint, so they are computed here instead of loaded.
        text = causal_lm.model.language_model
        text.rotary_emb = type(text.rotary_emb)(config=config.text_config).to(device)
        model.causal_lm = causal_lm
        return model

    @classmethod
    def _empty_causal_lm(cls, config: Any, attn_implementation: str, dtype: torch.dtype) -> Any:
        """The language model without weights, on the meta device."""
        causal_lm = Qwen2_5_VLForConditionalGeneration._from_config(
            config, attn_implementation=attn_implementation, dtype=dtype
        )
        # The encoder service runs the tower. With embeddings as input, the forward pass works without it.
        causal_lm.model.visual = None
        return causal_lm

    @classmethod
    def load_visual_embedder(cls, checkpoint: Path, *, device: torch.device, dtype: str) -> Self:
        """Reads the config only; see `VisualEmbedder.load_visual_embedder`."""
        config = read_family_config(cls.config_class, checkpoint)
        compute_dtype = resolve_dtype(dtype, device, config.dtype)
        return cls(config, device, compute_dtype)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights and computation."""
        return self._dtype

    def embed(self, prompt: Prompt) -> ModelInputs:
        """Embeds a prompt: each placeholder is replaced by the visual tokens of its image or video.

        Returns:
            L = `prompt.num_tokens` embeddings with the position ids of the unpruned prompt.
        """
        text = self.causal_lm.get_input_embeddings()(to_device(torch.from_numpy(prompt.input_ids), self.device))
        visual = [self.embed_visual(tokens) for tokens in prompt.visual_tokens]
        placeholders = prompt.placeholders(self.visual_token_ids)
        position_ids, next_position_id = mrope_position_ids(prompt, placeholders, self._tokens_per_second)
        return ModelInputs(
            expand_placeholders(text, placeholders, visual),
            to_device(torch.from_numpy(position_ids), self.device),
            next_position_id,
        )

    def embed_visual(self, tokens: VisualTokens) -> torch.Tensor:
        """[`tokens.num_tokens`, H] features, unchanged."""
        return to_device(torch.from_numpy(tokens.features), self.device).to(self.dtype)
