"""Qwen2.5-VL scaled down."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks.checkpoints.tiny import qwen, templates

__all__ = ["write"]

_WIDTH: Final = 128


def _config(tokenizer: Any) -> Any:
    """4 vision layers, 2 of them with full attention, windows of 4 x 4 visual tokens; 3 language layers."""
    ids = tokenizer.convert_tokens_to_ids
    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": _WIDTH,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 4096,
            "initializer_range": 0.15,  # logits differ clearly
            "rms_norm_eps": 1e-6,
            "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
            "rope_theta": 1e6,
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
        },
        vision_config={
            "depth": 4,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 4,
            "out_hidden_size": _WIDTH,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1, 3],
            "tokens_per_second": 2,
            "initializer_range": 0.2,  # peaked attention, so that scores differ clearly
        },
        **qwen.media_token_ids(tokenizer),
        tie_word_embeddings=False,
    )


def write(folder: Path, *, seed: int = 0) -> Path:
    """Writes config, weights, tokenizer and the files of the processor; returns `folder`.

    The processor of videos has no file of its own: it reads preprocessor_config.json, as in the hub's checkpoints.
    """
    torch.manual_seed(seed)
    tokenizer = qwen.qwen_tokenizer(templates.QWEN2_5_VL)
    model = Qwen2_5_VLForConditionalGeneration(_config(tokenizer))
    # 4 to 64 visual tokens.
    size = {"shortest_edge": 4 * 28 * 28, "longest_edge": 64 * 28 * 28}
    image_processor = Qwen2VLImageProcessorPil(size=size)
    return qwen.save(model, tokenizer, image_processor, folder, processor_class="Qwen2_5_VLProcessor")
