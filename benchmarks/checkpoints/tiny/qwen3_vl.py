"""Qwen3-VL scaled down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks.checkpoints.tiny import qwen, templates

__all__ = ["config", "write"]

_WIDTH: Final = 128
_PROCESSOR: Final = "Qwen3VLProcessor"


def config(tokenizer: Any = None) -> Any:
    """5 vision layers, after three of which DeepStack planes are taken; 4 language layers, three with a plane."""
    tokenizer = tokenizer or qwen.qwen_tokenizer(templates.QWEN3_VL)
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
        **qwen.media_token_ids(tokenizer),
        tie_word_embeddings=False,
    )


def write(folder: Path, *, seed: int = 0) -> Path:
    """Writes config, weights, tokenizer and the files of the processor; returns `folder`.

    The processor of videos has a file of its own, as in the hub's checkpoints.
    """
    torch.manual_seed(seed)
    tokenizer = qwen.qwen_tokenizer(templates.QWEN3_VL)
    model = Qwen3VLForConditionalGeneration(config(tokenizer))
    half = [0.5, 0.5, 0.5]
    # 4 to 64 visual tokens of an image.
    size = {"shortest_edge": 4 * 32 * 32, "longest_edge": 64 * 32 * 32}
    image_processor = Qwen2VLImageProcessorPil(size=size, patch_size=16, image_mean=half, image_std=half)
    qwen.save(model, tokenizer, image_processor, folder, processor_class=_PROCESSOR)
    video_processor = {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "processor_class": _PROCESSOR,
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
