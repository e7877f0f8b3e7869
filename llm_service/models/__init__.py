"""Model families by the `model_type` of their config. docs/extending.md has the steps for a new one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch
from torch import nn

from fovea.checkpoints import shown_name
from fovea.checkpoints.layouts import UnsupportedCheckpoint, check_weights_file, checked_family
from fovea.modeling.errors import CheckpointError
from llm_service.models.base import VisionLanguageModel, VisualEmbedder
from llm_service.models.llava import LlavaLanguageModel
from llm_service.models.llava_next import LlavaNextLanguageModel
from llm_service.models.quantization import quantize
from llm_service.models.qwen2_5_vl import QwenLanguageModel
from llm_service.models.qwen3_vl import Qwen3LanguageModel
from llm_service.models.video_llava import VideoLlavaLanguageModel

__all__ = ["FAMILIES", "family_of", "load_model", "load_visual_embedder"]

FAMILIES: Final[dict[str, type[VisionLanguageModel]]] = {
    "llava": LlavaLanguageModel,
    "llava_next": LlavaNextLanguageModel,
    "video_llava": VideoLlavaLanguageModel,
    "qwen2_5_vl": QwenLanguageModel,
    "qwen3_vl": Qwen3LanguageModel,
}


def load_visual_embedder(checkpoint: Path, *, device: torch.device, dtype: str) -> VisualEmbedder:
    """Loads the visual embedder of a checkpoint of any supported family.

    Args:
        checkpoint: Checkpoint directory.
        device: Device of the weights.
        dtype: Name of a dtype; see `resolve_dtype`.

    Raises:
        CheckpointError: Another family, an unreadable config, or weights that do not fit it.
    """
    return FAMILIES[family_of(checkpoint)].load_visual_embedder(checkpoint, device=device, dtype=dtype)


def load_model(
    checkpoint: Path, *, device: torch.device, dtype: str, attn_implementation: str, quantization: str = "none"
) -> VisionLanguageModel:
    """Loads the language model and the visual embedder of a checkpoint of any supported family.

    Args:
        checkpoint: Checkpoint directory.
        device: Device of the weights.
        dtype: Name of a dtype; see `resolve_dtype`.
        attn_implementation: Attention kernel of transformers.
        quantization: Scheme none, int8 or nf4; see `quantize`.

    Raises:
        CheckpointError: Another family, an unreadable config, weights that do not fit it, or a quantization that this
            device does not support.
    """
    load = FAMILIES[family_of(checkpoint)].load
    _check_unquantized(checkpoint)
    if quantization == "none":
        return load(checkpoint, device=device, dtype=dtype, attn_implementation=attn_implementation)
    if dtype == "auto" and device.type != "cpu":
        dtype = "bfloat16"
    model = load(checkpoint, device=torch.device("cpu"), dtype=dtype, attn_implementation=attn_implementation)
    quantize(model.causal_lm, quantization, device)
    for module in vars(model).values():
        if isinstance(module, nn.Module):
            module.to(device)
    return model


def family_of(checkpoint: Path) -> str:
    """Family of a checkpoint that is served.

    Raises:
        CheckpointError: Another family, an unreadable config, or no weights.
    """
    try:
        family = checked_family(checkpoint)
    except UnsupportedCheckpoint as error:
        raise CheckpointError(str(error)) from error
    name = shown_name(checkpoint)
    if family not in FAMILIES:
        raise CheckpointError(
            f"{name!r} is not supported: it is of family {family!r}; the LLM service serves {', '.join(FAMILIES)}"
        )
    try:
        check_weights_file(checkpoint)
    except UnsupportedCheckpoint as error:
        raise CheckpointError(str(error)) from error
    return family


def _check_unquantized(checkpoint: Path) -> None:
    """Refuses checkpoints whose weights are already quantized."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    found = config.get("quantization_config")
    if found:
        method = found.get("quant_method") if isinstance(found, dict) else found
        raise CheckpointError(
            f"{shown_name(checkpoint)!r} is not supported: its weights are quantized already ({method!s:.40}); engine"
            " transformers reads float32, bfloat16 and float16, and quantizes them itself with --quantization"
        )
