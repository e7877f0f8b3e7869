"""A random LLaVA: visual tokens of LLaVA-1.5, and a language model for two cores, which never ends an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from benchmarks.checkpoints.tiny.llava import SPECIALS, save
from benchmarks.checkpoints.tiny.tokenizers import vicuna_tokenizer

__all__ = ["GRID", "VISUAL_WIDTH", "WIDTH", "write"]

GRID: Final = (1, 24, 24)
VISUAL_WIDTH: Final = 1024

WIDTH: Final = 1024
_HEAD: Final = 64
_LAYERS: Final = 3


def write(folder: Path, *, width: int = WIDTH, seed: int = 0) -> dict[str, Any]:
    """Writes config, weights in bfloat16 and tokenizer; returns the facts of the model for a report.

    The vision tower has one layer, as it is never run.

    Args:
        folder: directory of the checkpoint.
        width: hidden size of the language model, a multiple of 64.
        seed: seed of the weights.
    """
    torch.manual_seed(seed)
    tokenizer = vicuna_tokenizer(SPECIALS, image_token=SPECIALS[-1])
    text = LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=_LAYERS,
        num_attention_heads=width // _HEAD,
        num_key_value_heads=width // _HEAD,
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=VISUAL_WIDTH,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    image = tokenizer.convert_tokens_to_ids(SPECIALS[-1])
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image, vision_feature_layer=-1)
    model = LlavaForConditionalGeneration(config).to(torch.bfloat16)
    model.lm_head.weight.data[tokenizer.eos_token_id] = 0  # a logit of 0 is never the largest
    save(model, tokenizer, folder)
    parameters = sum(p.numel() for p in model.model.language_model.layers.parameters())
    return {"hidden_size": width, "layers": _LAYERS, "layer_parameters": parameters, "dtype": "bfloat16"}
