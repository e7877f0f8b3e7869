"""A LLaVA in several layouts of its files and a CLIP, for the tests of the encoder service."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

__all__ = ["LlavaLayouts", "write_layouts"]

_IMAGE_SIZE: Final = 48
_VISION: Final[dict[str, Any]] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": _IMAGE_SIZE,
    "patch_size": 8,
    "projection_dim": 16,
    "initializer_factor": 3.0,  # peaked attention, so that scores differ clearly
}
# The id in OpenAI's CLIP checkpoints, for which transformers takes the largest id of a text as EOS.
_LEGACY_EOS: Final = 2


@dataclass(frozen=True)
class LlavaLayouts:
    """Checkpoint directories.

    Attributes:
        hub: LLaVA in the hub's layout of tensor names, in float16.
        saved: LLaVA as transformers saves it.
        sharded: LLaVA in the hub's layout, in two shards.
        clip: CLIP for the text tower.
    """

    hub: Path
    saved: Path
    sharded: Path
    clip: Path


def write_layouts(root: Path) -> LlavaLayouts:
    """Writes all checkpoints into folders of `root`."""
    torch.manual_seed(0)
    layouts = LlavaLayouts(root / "hub", root / "saved", root / "sharded", root / "clip")
    _write_llava(layouts.saved)
    _to_hub_layout(layouts.saved, layouts.hub)
    _shard(layouts.hub, layouts.sharded)
    _write_clip(layouts.clip)
    return layouts


def _write_llava(folder: Path) -> None:
    text = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=64,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_VISION),
        text_config=text,
        image_token_index=63,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    crop = {"height": _IMAGE_SIZE, "width": _IMAGE_SIZE}
    CLIPImageProcessorPil(size={"shortest_edge": _IMAGE_SIZE}, crop_size=crop).save_pretrained(folder)


def _write_clip(folder: Path) -> None:
    text = CLIPTextConfig(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=100,
        max_position_embeddings=16,
        projection_dim=16,
        bos_token_id=0,
        eos_token_id=_LEGACY_EOS,
        initializer_factor=3.0,
    )
    config = CLIPConfig(text_config=text, vision_config=CLIPVisionConfig(**_VISION), projection_dim=16)
    CLIPModel(config).save_pretrained(folder)


def _to_hub_layout(source: Path, target: Path) -> None:
    """Copies a checkpoint with tensor names as on the hub: vision_tower.vision_model.*, language_model.model.*, ..."""
    shutil.copytree(source, target)
    tensors = load_file(source / "model.safetensors")
    renamed = {}
    for key, tensor in tensors.items():
        name = key.removeprefix("model.")
        if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
            name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
        elif name.startswith("language_model.") and not name.startswith("language_model.model."):
            name = name.replace("language_model.", "language_model.model.", 1)
        elif name == "lm_head.weight":
            name = "language_model.lm_head.weight"
        renamed[name] = tensor.to(torch.float16)
    save_file(renamed, target / "model.safetensors", metadata={"format": "pt"})


def _shard(source: Path, target: Path) -> None:
    """Copies a checkpoint as two shards and an index; the shard without vision tensors is garbage."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    vision = {key: tensor for key, tensor in tensors.items() if "vision_tower" in key}
    save_file(vision, target / "model-00001-of-00002.safetensors")
    (target / "model-00002-of-00002.safetensors").write_bytes(b"not a safetensors file")
    weight_map = {key: f"model-0000{1 if key in vision else 2}-of-00002.safetensors" for key in tensors}
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
