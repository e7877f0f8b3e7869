"""Tokenizer files of tiny checkpoints of every family without weights, with configuration classes of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, get_args

from transformers import LlavaConfig, LlavaNextConfig, Qwen2_5_VLConfig, VideoLlavaConfig

from benchmarks.checkpoints.tiny.tokenizers import language_tokenizer
from tests.unit.gateway.checkpoints import HUB_TEMPLATE

Family = Literal["llava", "llava_next", "video_llava", "qwen2_5_vl"]
FAMILIES: Final[tuple[Family, ...]] = get_args(Family)
TAKE_VIDEOS: Final[tuple[Family, ...]] = ("video_llava", "qwen2_5_vl")

# Template of llava-v1.6-mistral-7b-hf: no role names, strict alternation.
_MISTRAL: Final = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{{ ' [/INST]' }}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ ' ' + content['text'] }}"
    "{% endfor %}{{ '</s> ' }}{% endif %}{% endfor %}"
)
_VIDEO_LLAVA: Final = HUB_TEMPLATE.replace(
    "{# Render all text next #}",
    "{# Render all videos then #}{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}"
    "{{ '<video>\n' }}{% endfor %}{# Render all text next #}",
)
_QWEN: Final = (
    "{% set image_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_QWEN_SPECIALS: Final = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)


def write_family(folder: Path, family: Family) -> Path:
    """Writes tokenizer.json, chat template and config.json to `folder`, and returns it."""
    if family == "qwen2_5_vl":
        names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        tokenizer = language_tokenizer(_QWEN_SPECIALS, names)
        ids = tokenizer.convert_tokens_to_ids
        config = Qwen2_5_VLConfig(
            image_token_id=ids("<|image_pad|>"),
            video_token_id=ids("<|video_pad|>"),
            vision_start_token_id=ids("<|vision_start|>"),
            vision_end_token_id=ids("<|vision_end|>"),
        )
        tokenizer.chat_template = _QWEN
    else:
        videos = ("<video>",) if family == "video_llava" else ()
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        tokenizer = language_tokenizer(("<unk>", "<s>", "</s>", "<pad>", "<image>", *videos), names, bos="<s>")
        image = tokenizer.convert_tokens_to_ids("<image>")
        if family == "video_llava":
            video = tokenizer.convert_tokens_to_ids("<video>")
            config = VideoLlavaConfig(image_token_index=image, video_token_index=video)
        else:
            config = (LlavaConfig if family == "llava" else LlavaNextConfig)(image_token_index=image)
        tokenizer.chat_template = {"llava": HUB_TEMPLATE, "llava_next": _MISTRAL, "video_llava": _VIDEO_LLAVA}[family]
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    return folder
