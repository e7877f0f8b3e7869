"""A random LLaVA between the tiny and the full size: 576 visual tokens, tens of milliseconds of a CPU for each stage.

Its answers are noise. They contain no end token, so every answer has its full length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from benchmarks.checkpoints.tiny import clip, llava
from benchmarks.checkpoints.tiny.tokenizers import vicuna_tokenizer

__all__ = ["CHANNELS", "IMAGE_SIZE", "write", "write_wide"]

CHANNELS: Final = 128  # channels of a visual token
IMAGE_SIZE: Final = 336  # 24 x 24 patches, as LLaVA-1.5


def write(folder: Path, *, seed: int = 0) -> tuple[Path, Path]:
    """Writes the checkpoint and a CLIP for its text tower; returns both folders."""
    vision = clip.vision_config(
        hidden_size=CHANNELS, intermediate_size=4 * CHANNELS, num_hidden_layers=6, image_size=IMAGE_SIZE
    )
    return _write(folder, vision, {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8}, seed)


def write_wide(folder: Path, *, seed: int = 0) -> tuple[Path, Path]:
    """Writes a wider LLaVA, of 57 million parameters in the tower and 103 million in the language model, and its CLIP;
    returns both folders."""
    vision = clip.vision_config(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=8, num_attention_heads=12, image_size=IMAGE_SIZE
    )
    return _write(folder, vision, {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16}, seed)


def _write(folder: Path, vision: Any, widths: dict[str, int], seed: int) -> tuple[Path, Path]:
    tokenizer = vicuna_tokenizer(llava.SPECIALS, image_token=llava.SPECIALS[-1])
    text = LlamaConfig(
        **widths,
        num_hidden_layers=8,
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(llava.SPECIALS[-1]),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = 0  # never the largest of some hundred random numbers
    return llava.save(model, tokenizer, folder / "llava"), clip.write(folder / "clip", seed=seed, vision=vision)
