"""LLaVA-NeXT scaled down, with a Llama (Vicuna) or a Mistral."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor, MistralConfig
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from benchmarks.checkpoints.tiny import templates
from benchmarks.checkpoints.tiny.clip import IMAGE_SIZE, vision_config
from benchmarks.checkpoints.tiny.llava import SPECIALS, llama_config
from benchmarks.checkpoints.tiny.tokenizers import vicuna_tokenizer

__all__ = ["CANVASES", "write"]

# Heights and widths in pixels, in the proportions of the published checkpoints.
CANVASES: Final = [
    [IMAGE_SIZE * rows, IMAGE_SIZE * columns] for rows, columns in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
]


def write(folder: Path, *, seed: int = 0, text: str = "llama") -> Path:
    """Writes config, weights, tokenizer and processor; returns `folder`.

    Args:
        folder: Directory of the checkpoint, created if it is missing.
        seed: Seed of the weights.
        text: Kind of language model, llama or mistral.
    """
    torch.manual_seed(seed)
    tokenizer = vicuna_tokenizer(SPECIALS, image_token="<image>")  # noqa: S106  # no passwords
    config = LlavaNextConfig(
        vision_config=vision_config(),
        text_config=_text_config(text, tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=CANVASES,
    )
    LlavaNextForConditionalGeneration(config).save_pretrained(folder)
    LlavaNextProcessor(
        LlavaNextImageProcessorPil(
            size={"shortest_edge": IMAGE_SIZE},
            crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            image_grid_pinpoints=CANVASES,
        ),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<image>",  # noqa: S106  # no password
        num_additional_image_tokens=1,
        chat_template=templates.LLAVA if text == "llama" else templates.MISTRAL,
    ).save_pretrained(folder)
    return folder


def _text_config(text: str, tokenizer: Any) -> Any:
    llama = llama_config(tokenizer)
    if text == "llama":
        return llama
    shared = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
        "initializer_range",
        "bos_token_id",
        "eos_token_id",
    )
    return MistralConfig(num_key_value_heads=2, sliding_window=None, **{name: getattr(llama, name) for name in shared})
