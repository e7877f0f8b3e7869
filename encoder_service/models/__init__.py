"""The model families by the `model_type` of their checkpoints. To add one: write its file, add its line."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Final, cast

from encoder_service.models.base import CheckpointError, EncoderModel, LoadOptions
from encoder_service.models.weights import read_config
from fovea import checkpoints

__all__ = ["FAMILIES", "load"]

# Module and class, imported when a checkpoint of the family is loaded: the processes that decode media need no towers.
FAMILIES: Final[Mapping[str, tuple[str, str]]] = {
    "llava": ("encoder_service.models.llava", "LlavaEncoder"),
    "llava_next": ("encoder_service.models.llava_next", "LlavaNextEncoder"),
    "video_llava": ("encoder_service.models.video_llava", "VideoLlavaEncoder"),
    "qwen2_5_vl": ("encoder_service.models.qwen2_5_vl", "QwenEncoder"),
}


def load(model: str, options: LoadOptions) -> EncoderModel:
    """Loads what the encoder runs of a checkpoint (directory or hub id).

    Raises:
        CheckpointError: Not a checkpoint that this service can run.
        FileNotFoundError: Not found, here or on the hub.
    """
    files = (*checkpoints.CONFIG_FILES, "*.safetensors")
    checkpoint = checkpoints.resolve(model, files=files, revision=options.revision)
    model_type = str(read_config(checkpoint).get("model_type"))
    if model_type not in FAMILIES:
        raise CheckpointError(f"{model_type!r} is not a family that this service runs; accepted: {', '.join(FAMILIES)}")
    module, name = FAMILIES[model_type]
    family = getattr(importlib.import_module(module), name)
    return cast(EncoderModel, family(checkpoint, options))
