"""LLaVA-1.5 scaled down."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.checkpoints.tiny import templates
from benchmarks.checkpoints.tiny.clip import vision_config
from benchmarks.checkpoints.tiny.tokenizers import vicuna_tokenizer

__all__ = ["SPECIALS", "llama_config", "processor", "save", "write"]

SPECIALS: Final = templates.LLAVA_SPECIALS


def llama_config(tokenizer: Any) -> Any:
    """Vicuna scaled down: 4 layers, 4 heads."""
    return LlamaConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,  # the narrowest that vLLM's kernels for CPUs take
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        initializer_range=0.2,  # logits differ clearly
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def write(folder: Path, *, seed: int = 0) -> Path:
    """Writes config, weights, tokenizer and processor; returns `folder`."""
    torch.manual_seed(seed)
    tokenizer = vicuna_tokenizer(SPECIALS, image_token="<image>")  # noqa: S106  # no passwords
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=llama_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return save(LlavaForConditionalGeneration(config), tokenizer, folder)


def processor(tokenizer: Any, *, image_size: int, chat_template: str = templates.LLAVA) -> Any:
    """Processor of LLaVA-1.5 for square images of `image_size` pixels."""
    return LlavaProcessor(
        CLIPImageProcessorPil(
            size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
        ),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token=SPECIALS[-1],
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Writes a model of any size with the processor that fits it; returns `folder`."""
    model.save_pretrained(folder)
    processor(tokenizer, image_size=model.config.vision_config.image_size).save_pretrained(folder)
    return folder
