"""Model families by the `model_type` of their checkpoints. docs/extending.md has the steps for a new one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Final, cast

from encoder_service.models.base import EncoderModel, LoadOptions
from fovea import checkpoints
from fovea.checkpoints.layouts import UnsupportedCheckpoint, check_weights_file, checked_family
from fovea.modeling.errors import CheckpointError

__all__ = ["FAMILIES", "load"]

# Module and class, imported when a checkpoint of the family is loaded: the processes that decode media need no towers.
FAMILIES: Final[Mapping[str, tuple[str, str]]] = {
    "llava": ("encoder_service.models.llava", "LlavaEncoder"),
    "llava_next": ("encoder_service.models.llava_next", "LlavaNextEncoder"),
    "video_llava": ("encoder_service.models.video_llava", "VideoLlavaEncoder"),
    "qwen2_5_vl": ("encoder_service.models.qwen2_5_vl", "QwenEncoder"),
    "qwen3_vl": ("encoder_service.models.qwen3_vl", "Qwen3Encoder"),
}


def load(model: str, options: LoadOptions) -> EncoderModel:
    """Loads the towers of a checkpoint (directory or hub id).

    Raises:
        CheckpointError: Not a checkpoint that this service can run.
        FileNotFoundError: Not found, here or on the hub.
    """
    files = (*checkpoints.CONFIG_FILES, "*.safetensors")
    checkpoint = checkpoints.resolve(model, files=files, revision=options.revision)
    try:
        family = checked_family(checkpoint)
    except UnsupportedCheckpoint as error:
        raise CheckpointError(str(error)) from error
    if family not in FAMILIES:
        name = checkpoints.shown_name(checkpoint)
        raise CheckpointError(
            f"{name!r} is not supported: {family!r} is not a family that this service runs; accepted:"
            f" {', '.join(FAMILIES)}"
        )
    try:
        check_weights_file(checkpoint)
    except UnsupportedCheckpoint as error:
        raise CheckpointError(str(error)) from error
    module, class_name = FAMILIES[family]
    return cast(EncoderModel, getattr(importlib.import_module(module), class_name)(checkpoint, options))
