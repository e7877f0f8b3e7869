"""The model families by the `model_type` of their checkpoints. To add one: write its file, add its line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from encoder_service.models import llava, llava_next, qwen2_5_vl, video_llava
from encoder_service.models.base import CheckpointError, EncoderModel, LoadOptions
from fovea import checkpoints
from fovea.layouts import UnsupportedCheckpoint, checked_family

__all__ = ["FAMILIES", "load"]

FAMILIES: Final[Mapping[str, Callable[[Path, LoadOptions], EncoderModel]]] = {
    "llava": llava.LlavaEncoder,
    "llava_next": llava_next.LlavaNextEncoder,
    "video_llava": video_llava.VideoLlavaEncoder,
    "qwen2_5_vl": qwen2_5_vl.QwenEncoder,
}


def load(model: str, options: LoadOptions) -> EncoderModel:
    """Loads what the encoder runs of a checkpoint (directory or hub id).

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
    return FAMILIES[family](checkpoint, options)
