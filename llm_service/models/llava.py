"""LLaVA-1.5 (arXiv 2310.03744): a two-layer projector maps the features of CLIP into the embedding space of a Llama.

Features arrive as the vision tower computed them. Projecting them here keeps the narrow side of the projector on the
wire: 1024 channels instead of 4096. Kept tokens take consecutive position ids; dropped ones leave no gap.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Final, Self

import torch
from transformers import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from fovea.modeling.compute import resolve_dtype
from fovea.modeling.configs import read_family_config
from fovea.modeling.transfers import to_device
from fovea.modeling.weights import assign_weights, read_tensors
from llm_service.models.base import ModelInputs, VisionLanguageModel
from llm_service.models.configs import empty_text_model
from llm_service.models.generation_config import as_token_ids
from llm_service.models.placeholders import expand_placeholders
from llm_service.prompts import Prompt, VisualTokens

__all__ = ["LlavaLanguageModel"]

# Prefixes in the hub's layout, then in that of transformers 5 before its conversion on saving.
_LANGUAGE_MODEL: Final = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
    "lm_head.": "lm_head.",
}
_PROJECTOR: Final = {"multi_modal_projector.": "", "model.multi_modal_projector.": ""}


class LlavaLanguageModel(VisionLanguageModel):
    """Language model and projector of a LLaVA checkpoint. See `VisionLanguageModel` for the attributes."""

    family = "llava"
    video_token_id: int | None = None
    has_newline = False
    trims_answer = True
    config_class: type[Any] = LlavaConfig
    projector_class: type[Any] = LlavaMultiModalProjector
    causal_lm: Any

    def __init__(self, config: Any, projector: Any) -> None:
        layers = config.vision_feature_layer
        num_layers = 1 if isinstance(layers, int) else len(layers)
        self.projector = projector
        self.vocab_size: int = config.text_config.vocab_size
        self.image_token_id: int = config.image_token_id
        self.visual_hidden_size: int = config.vision_config.hidden_size * num_layers
        self.max_model_len: int = config.text_config.max_position_embeddings
        self.config_eos_token_ids = as_token_ids(config.text_config.eos_token_id)

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
        config = read_family_config(cls.config_class, checkpoint)
        text_config = copy.deepcopy(config.text_config)
        compute_dtype = resolve_dtype(dtype, device, config.dtype)
        causal_lm = empty_text_model(
            checkpoint, text_config, attn_implementation=attn_implementation, dtype=compute_dtype
        )
        model = cls.load_visual_embedder(checkpoint, device=device, dtype=dtype)
        tensors = read_tensors(checkpoint, _LANGUAGE_MODEL, dtype=model.dtype, device=device)
        if text_config.tie_word_embeddings and "model.embed_tokens.weight" in tensors:
            tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
        assign_weights(causal_lm, tensors, what="language model")
        # Rotary frequencies are in no checkpoint, so they are computed here instead of loaded.
        causal_lm.model.rotary_emb = type(causal_lm.model.rotary_emb)(config=text_config).to(device)
        model.causal_lm = causal_lm
        return model

    @classmethod
    def load_visual_embedder(cls, checkpoint: Path, *, device: torch.device, dtype: str) -> Self:
        """Loads the projector only; see `VisualEmbedder.load_visual_embedder`."""
        config = read_family_config(cls.config_class, checkpoint)
        compute_dtype = resolve_dtype(dtype, device, config.dtype)
        with torch.device("meta"):
            projector = cls.projector_class(config)
        assign_weights(
            projector, read_tensors(checkpoint, _PROJECTOR, dtype=compute_dtype, device=device), what="projector"
        )
        return cls(config, projector)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = self.projector.linear_1.weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights and computation."""
        dtype: torch.dtype = self.projector.linear_1.weight.dtype
        return dtype

    def embed(self, prompt: Prompt) -> ModelInputs:
        """Embeds a prompt: each placeholder is replaced by the projected tokens of its image or video.

        Returns:
            L = `prompt.num_tokens` embeddings with position ids 0 to L - 1.
        """
        text = self.causal_lm.get_input_embeddings()(to_device(torch.from_numpy(prompt.input_ids), self.device))
        visual = [self.embed_visual(tokens) for tokens in prompt.visual_tokens]
        inputs_embeds = expand_placeholders(text, prompt.placeholders(self.visual_token_ids), visual)
        length = len(inputs_embeds)
        return ModelInputs(inputs_embeds, torch.arange(length, device=self.device), length)

    def embed_visual(self, tokens: VisualTokens) -> torch.Tensor:
        """[`tokens.num_tokens`, H] projected tokens of one image or video."""
        features = to_device(torch.from_numpy(tokens.features), self.device)
        projected: torch.Tensor = self.projector(features.to(self.dtype))
        return projected
