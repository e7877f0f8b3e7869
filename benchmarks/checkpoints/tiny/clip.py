"""A tiny CLIP, whose projections fit the vision towers of the other tiny checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from benchmarks.checkpoints.tiny.tokenizers import clip_tokenizer

__all__ = ["HIDDEN_SIZE", "IMAGE_SIZE", "vision_config", "write"]

HIDDEN_SIZE: Final = 64
IMAGE_SIZE: Final = 56  # 4 x 4 patches of 14 pixels
_JOINT: Final = 32


def vision_config(**changes: Any) -> Any:
    """CLIP ViT-L/14 scaled down: 4 layers, 4 heads, 4 x 4 patches."""
    values = {
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": 14,
        "projection_dim": _JOINT,
        "initializer_factor": 3.0,  # peaked attention, so that scores differ clearly
    }
    return CLIPVisionConfig(**(values | changes))


def write(folder: Path, *, seed: int = 0, vision: Any = None) -> Path:
    """Writes config, weights and tokenizer; `vision` replaces the config of the vision tower. Returns `folder`."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    text = CLIPTextConfig(
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=len(tokenizer),
        max_position_embeddings=77,
        projection_dim=_JOINT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_factor=3.0,
    )
    vision = vision_config() if vision is None else vision
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=_JOINT)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
