"""What the small checkpoints of Qwen's families share: tokenizer, ids of media tokens, and the files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from transformers import GenerationConfig

from benchmarks.checkpoints.tiny import templates
from benchmarks.checkpoints.tiny.tokenizers import language_tokenizer

__all__ = ["media_token_ids", "qwen_tokenizer", "save"]

_MEDIA_NAMES: Final = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
_END: Final = "<|im_end|>"
_PAD: Final = "<|endoftext|>"


def qwen_tokenizer(chat_template: str, media_names: Mapping[str, str] = _MEDIA_NAMES) -> Any:
    """The tokenizer of the families.

    Args:
        chat_template: Chat template in jinja2.
        media_names: Media tokens that the tokenizer names, by their names in transformers.
    """
    names = {"eos_token": _END, "pad_token": _PAD, **media_names}
    tokenizer = language_tokenizer(templates.QWEN2_5_VL_SPECIALS, names)
    tokenizer.chat_template = chat_template
    return tokenizer


def media_token_ids(tokenizer: Any) -> dict[str, int]:
    """Ids of the media tokens by their fields in a config."""
    ids = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }


def save(model: Any, tokenizer: Any, image_processor: Any, folder: Path, *, processor_class: str) -> Path:
    """Writes config, weights, tokenizer and image processor; returns `folder`.

    The processor as a whole is not saved: transformers builds it with torchvision only, for its video processor.

    Args:
        model: Model of transformers.
        tokenizer: Its tokenizer, see `qwen_tokenizer`.
        image_processor: Its image processor.
        folder: Directory of the checkpoint.
        processor_class: Class of the processor as a whole, which preprocessor_config.json names.
    """
    model.save_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids([_END, _PAD])
    GenerationConfig(eos_token_id=ends, pad_token_id=ends[1]).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processor_class": processor_class}, indent=2))
    return folder
