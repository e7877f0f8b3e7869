"""Qwen3-VL scaled down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks.checkpoints.tiny import templates
from benchmarks.checkpoints.tiny.tokenizers import language_tokenizer

__all__ = ["SPECIALS", "config", "write"]

SPECIALS: Final = templates.QWEN2_5_VL_SPECIALS

_WIDTH: Final = 128


def _tokenizer() -> Any:
    return language_tokenizer(
        SPECIALS,
        {
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
        },
    )


def config(tokenizer: Any = None) -> Any:
    """5 vision layers, after three of which DeepStack planes are taken; 4 language layers, three with a plane."""
    tokenizer = tokenizer or _tokenizer()
    ids = tokenizer.convert_tokens_to_ids
    return Qwen3VLConfig(
        text_config={
            "hidden_size": _WIDTH,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 4096,
            "initializer_range": 0.15,  # logits differ clearly
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
        },
        vision_config={
            "depth": 5,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 4,
            "out_hidden_size": _WIDTH,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 144,
            "deepstack_visual_indexes": [1, 2, 3],
            "initializer_range": 0.2,  # peaked attention, so that scores differ clearly
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )


def write(folder: Path, *, seed: int = 0) -> Path:
    """Writes config, weights, tokenizer and the files of the processor; returns `folder`.

    The processor as a whole is not saved: transformers builds it with torchvision only, for its video processor. The
    video processor has a file of its own, as in the hub's checkpoints.
    """
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    tokenizer.chat_template = templates.QWEN3_VL
    Qwen3VLForConditionalGeneration(config(tokenizer)).save_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    GenerationConfig(eos_token_id=ends, pad_token_id=ends[1]).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    # 4 to 64 visual tokens of an image.
    size = {"shortest_edge": 4 * 32 * 32, "longest_edge": 64 * 32 * 32}
    Qwen2VLImageProcessorPil(size=size, patch_size=16, image_mean=half, image_std=half).save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    image_processor = json.loads(path.read_text()) | {"processor_class": "Qwen3VLProcessor"}
    path.write_text(json.dumps(image_processor, indent=2))
    video_processor = {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": 8 * 32 * 32, "longest_edge": 256 * 32 * 32},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": half,
        "image_std": half,
        "fps": 2,
        "min_frames": 4,
        "max_frames": 768,
    }
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video_processor, indent=2))
    return folder
