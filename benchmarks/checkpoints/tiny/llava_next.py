"""LLaVA-NeXT scaled down, with a Llama (Vicuna) or a Mistral."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor, MistralConfig
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from benchmarks.checkpoints.tiny.clip import IMAGE_SIZE, vision_config
from benchmarks.checkpoints.tiny.llava import SPECIALS, TEMPLATE, llama_config
from benchmarks.checkpoints.tiny.tokenizers import vicuna_tokenizer

__all__ = ["CANVASES", "MISTRAL_TEMPLATE", "write"]

# Heights and widths, in the proportions of the published checkpoints.
CANVASES: Final = [
    [IMAGE_SIZE * rows, IMAGE_SIZE * columns] for rows, columns in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
]

# Writes what that of llava-v1.6-mistral-7b-hf writes.
MISTRAL_TEMPLATE: Final = (
    "{% for turn in messages %}{% set texts = turn.content | selectattr('type', 'equalto', 'text') | list %}"
    "{% if turn.role == 'system' %}{{ '<<SYS>>\n' + texts[0].text + '\n<</SYS>>\n\n' }}"
    "{% elif turn.role == 'user' %}{{ '[INST] ' }}"
    "{% for part in turn.content if part.type == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in texts %}{{ part.text }}{% endfor %}{{ ' [/INST]' }}"
    "{% else %}{{ ' ' + texts[0].text + '</s> ' }}{% endif %}{% endfor %}"
)


def write(folder: Path, *, seed: int = 0, text: str = "llama") -> Path:
    """Writes config, weights, tokenizer and processor; returns `folder`.

    Args:
        folder: Made where it is missing.
        seed: Of the weights.
        text: llama or mistral.
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
        chat_template=TEMPLATE if text == "llama" else MISTRAL_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def _text_config(text: str, tokenizer: Any) -> Any:
    llama = llama_config(tokenizer)
    if text == "llama":
        return llama
    same = (
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
    return MistralConfig(num_key_value_heads=2, sliding_window=None, **{name: getattr(llama, name) for name in same})
