"""A language model of LLaVA-1.5 with random weights that are in no file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from benchmarks.checkpoints.random_weights import draw_weights
from fovea.modeling.compute import for_inference
from llm_service.models.configs import empty_text_model
from llm_service.models.llava import LlavaLanguageModel

__all__ = ["WIDTH", "language_model", "llama_config"]

WIDTH: Final = 4096  # hidden size of LLaVA-1.5-7B
_HEAD: Final = 128


def llama_config(layers: int, vocab_size: int, *, width: int = WIDTH, **changes: Any) -> Any:
    """Layers of LLaVA-1.5-7B's shapes; `width` is the hidden size, a multiple of 128, and scales the others."""
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 43 // 16,
        num_hidden_layers=layers,
        num_attention_heads=width // _HEAD,
        num_key_value_heads=width // _HEAD,
        vocab_size=vocab_size,
        max_position_embeddings=4096,
        **changes,
    )


def language_model(text: Any, device: torch.device, dtype: torch.dtype) -> LlavaLanguageModel:
    """Language model and projector of a LLaVA.

    Args:
        text: Config of the language model.
        device: Device of the weights, which are drawn there.
        dtype: Dtype of the weights.
    """
    vision = CLIPVisionConfig(hidden_size=1024, num_attention_heads=16)  # the tower is not made
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=4)
    causal_lm = empty_text_model(Path("random"), text, attn_implementation="sdpa", dtype=dtype)
    with torch.device("meta"):
        projector = LlavaMultiModalProjector(config)
    for module in (causal_lm, projector):
        for_inference(module.to(dtype).to_empty(device=device), device, dtype)
        draw_weights(module)
    # Rotary frequencies are no parameters.
    causal_lm.model.rotary_emb = type(causal_lm.model.rotary_emb)(config=text).to(device)
    model = LlavaLanguageModel(config, projector)
    model.causal_lm = causal_lm
    return model
