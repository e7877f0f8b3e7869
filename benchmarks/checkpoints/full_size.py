"""Checkpoints of full size without their weights: the hub's configs and tensor names, and zeros that take no disk.

Only the shards with a needed tensor are written, as sparse files. The index names the others, which do not exist, so
that a service that reads more than its part fails.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

__all__ = ["MODELS", "FullSize", "tensor_shapes", "write", "write_clip"]

_SHARD_BYTES: Final = 4 * 2**30
_BYTES: Final = 2  # bfloat16


@dataclass(frozen=True)
class FullSize:
    """A published checkpoint.

    Attributes:
        config: Function that makes its config.
        model: Class of transformers.
        rename: Prefixes of tensor names in transformers 5, and those on the hub; the first that fits is replaced.
        needs: Predicate on a tensor's name on the hub, by service: whether the service reads the tensor.
        processor: Function that makes its image processor.
        has_text_tower: Whether the encoder reads questions with a CLIP text tower.
    """

    config: Callable[[], Any]
    model: Any
    rename: Mapping[str, str]
    needs: Mapping[str, Callable[[str], bool]]
    processor: Callable[[], Any]
    has_text_tower: bool


def _clip_vision() -> Any:
    return CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )


def _llava() -> Any:
    text = LlamaConfig(vocab_size=32064, max_position_embeddings=4096)  # the defaults are those of Llama-7B
    return LlavaConfig(vision_config=_clip_vision(), text_config=text, image_token_index=32000)


def _qwen_checkpoint(config: Callable[[], Any], model: Any, *, patch_size: int, rename: Mapping[str, str]) -> FullSize:
    """A checkpoint of Qwen's families, whose encoder service reads questions as embeddings of the language model."""
    visual = _renamed("model.visual.", rename)
    return FullSize(
        config=config,
        model=model,
        rename=rename,
        needs={
            "encoder": lambda name: name.startswith(visual) or name.endswith("embed_tokens.weight"),
            "llm": lambda name: not name.startswith(visual),
        },
        processor=lambda: Qwen2VLImageProcessorPil(patch_size=patch_size),
        has_text_tower=False,
    )


def _qwen2_5_vl(text: Mapping[str, Any], *, is_tied: bool = False) -> FullSize:
    """Qwen2.5-VL of one size.

    Args:
        text: Sizes of the language model, as in its config.
        is_tied: Whether input embeddings and head are one table.
    """
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": text["hidden_size"],
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
    }
    common = {
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
        "tie_word_embeddings": is_tied,
        "eos_token_id": 151645,
    }
    return _qwen_checkpoint(
        lambda: Qwen2_5_VLConfig(text_config={**text, **common}, vision_config=vision, tie_word_embeddings=is_tied),
        Qwen2_5_VLForConditionalGeneration,
        patch_size=14,
        rename={"model.visual.": "visual.", "model.language_model.": "model."},
    )


def _qwen3_vl(text: Mapping[str, Any], vision: Mapping[str, Any], *, is_tied: bool = False) -> FullSize:
    """Qwen3-VL of one size.

    Args:
        text: Sizes of the language model, as in its config.
        vision: Sizes of the vision tower, as in its config.
        is_tied: Whether input embeddings and head are one table.
    """
    common = {
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 262144,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
            "rope_theta": 5e6,
        },
        "tie_word_embeddings": is_tied,
        "eos_token_id": 151645,
    }
    tower = {"num_heads": 16, "out_hidden_size": text["hidden_size"]}
    return _qwen_checkpoint(
        lambda: Qwen3VLConfig(
            text_config={**text, **common}, vision_config={**vision, **tower}, tie_word_embeddings=is_tied
        ),
        Qwen3VLForConditionalGeneration,
        patch_size=16,
        rename={},
    )


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    return next((new + name.removeprefix(old) for old, new in rename.items() if name.startswith(old)), name)


MODELS: Final = {
    "llava-1.5-7b": FullSize(
        config=_llava,
        model=LlavaForConditionalGeneration,
        rename={
            "model.vision_tower.": "vision_tower.vision_model.",
            "model.multi_modal_projector.": "multi_modal_projector.",
            "model.language_model.": "language_model.model.",
            "lm_head.": "language_model.lm_head.",
        },
        needs={
            "encoder": lambda name: name.startswith("vision_tower."),
            "llm": lambda name: not name.startswith("vision_tower."),
        },
        processor=lambda: CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
        has_text_tower=True,
    ),
    "qwen2.5-vl-3b": _qwen2_5_vl(
        {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
        is_tied=True,
    ),
    "qwen2.5-vl-7b": _qwen2_5_vl(
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
    ),
    "qwen3-vl-2b": _qwen3_vl(
        {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
        {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]},
        is_tied=True,
    ),
    "qwen3-vl-8b": _qwen3_vl(
        {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
        {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]},
    ),
}


def write(folder: Path, name: str, service: str) -> tuple[int, int]:
    """Writes the part of a checkpoint that a service needs; returns the bytes of the part and of the whole."""
    spec = MODELS[name]
    config = spec.config()
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    spec.processor().save_pretrained(folder)
    return _write_shards(folder, tensor_shapes(spec.model, config, spec.rename), spec.needs[service])


def write_clip(folder: Path) -> int:
    """Writes the text tower of CLIP ViT-L/14-336; returns its bytes."""
    text = CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
        bos_token_id=49406,
        eos_token_id=49407,
    )
    config = CLIPConfig(text_config=text, vision_config=_clip_vision(), projection_dim=768)
    config.save_pretrained(folder)
    part, _ = _write_shards(
        folder,
        tensor_shapes(CLIPModel, config, {}),
        lambda name: name.startswith(("text_model.", "text_projection", "visual_p")),
    )
    return part


def tensor_shapes(model_class: Any, config: Any, rename: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's tensors by their names on the hub; see `FullSize.rename`. A tied head is not stored."""
    with torch.device("meta"):
        model = model_class(config)
    tied = dict(model.named_parameters(remove_duplicate=False)).keys() - dict(model.named_parameters()).keys()
    stored = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    return {_renamed(name, rename): tuple(tensor.shape) for name, tensor in stored.items()}


def _write_shards(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], needed: Callable[[str], bool]
) -> tuple[int, int]:
    shards: list[tuple[bool, list[str]]] = []
    free_bytes = 0
    for name in sorted(shapes, key=lambda name: not needed(name)):
        size = _BYTES * math.prod(shapes[name])
        if not shards or shards[-1][0] != needed(name) or size > free_bytes:
            shards.append((needed(name), []))
            free_bytes = _SHARD_BYTES
        shards[-1][1].append(name)
        free_bytes -= size
    weight_map: dict[str, str] = {}
    part = 0
    for i, (is_needed, names) in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        if is_needed:
            part += _write_zeros(folder / file, {name: shapes[name] for name in names})
    whole = _BYTES * sum(map(math.prod, shapes.values()))
    index = {"metadata": {"total_size": whole}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return part, whole


def _write_zeros(path: Path, shapes: Mapping[str, Sequence[int]]) -> int:
    """Writes a safetensors file whose data is a hole; returns the size of the data."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = _BYTES * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    return offset
