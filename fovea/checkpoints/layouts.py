"""Family of a checkpoint, and whether it can be served, by its files and its config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fovea.checkpoints import shown_name
from fovea.checkpoints.text_towers import DEFAULT_TEXT_TOWERS

__all__ = ["UnsupportedCheckpoint", "check_weights_file", "checked_family"]

_SUPPORTED: Final = f"checkpoints in Hugging Face's layout of the families {', '.join(DEFAULT_TEXT_TOWERS)}"

# Families whose config.json describes a CLIP vision tower in `vision_config`.
_CLIP_FAMILIES: Final = ("llava", "llava_next", "video_llava")
_CLIP_MODEL_TYPES: Final = ("clip_vision_model", "clip")


class UnsupportedCheckpoint(ValueError):
    """A checkpoint that no service can serve. The first sentence of the message has the reason and what is supported.

    Args:
        name: name of the directory, without its path.
        reason: kind of the checkpoint, or what is missing in it.
        supported: families and layouts that are served.
        hint: one sentence of advice.
    """

    def __init__(self, name: str, reason: str, *, supported: str = _SUPPORTED, hint: str = "") -> None:
        super().__init__(f"{name!r} is not supported: {reason}; supported are {supported}. {hint}".rstrip(". "))


def checked_family(checkpoint: Path) -> str:
    """Family named by config.json, supported or not.

    Args:
        checkpoint: directory of the checkpoint; its weights are not read and may be missing.

    Raises:
        UnsupportedCheckpoint: the checkpoint is not in Hugging Face's layout, or is a LLaVA whose vision tower is not a
            CLIP.
    """
    name = shown_name(checkpoint)
    _check_kind(checkpoint)
    config = _read_config(checkpoint)
    if _is_original_llava(config):
        raise UnsupportedCheckpoint(
            name,
            "it is in the original layout of LLaVA (mm_vision_tower, LlavaLlamaForCausalLM and the like)",
            hint="Many such checkpoints are on the hub in the other layout too, as llava-hf/llava-1.5-7b-hf",
        )
    family = config.get("model_type")
    if not isinstance(family, str) or not family:
        raise UnsupportedCheckpoint(name, "its config.json names no family as model_type")
    if family in _CLIP_FAMILIES:
        _check_vision_tower(name, family, config.get("vision_config", {}))
    return family


def check_weights_file(checkpoint: Path) -> None:
    """Checks that a checkpoint of a served family has weights in the only format that is read.

    Raises:
        UnsupportedCheckpoint: There is no *.safetensors in its directory.
    """
    if any(checkpoint.glob("*.safetensors")):
        return
    name = shown_name(checkpoint)
    if any(checkpoint.glob("pytorch_model*.bin")):
        raise UnsupportedCheckpoint(name, "its weights are in pytorch_model*.bin, not in *.safetensors")
    raise UnsupportedCheckpoint(
        name, "there is no weights file (*.safetensors) in it", hint="Is the download complete?"
    )


def _check_kind(checkpoint: Path) -> None:
    """Refuses adapters, GGUF files and directories without a config.json."""
    weights = {path.name for path in checkpoint.glob("*.safetensors")} - {"adapter_model.safetensors"}
    config = (checkpoint / "config.json").exists()
    adapter = any(checkpoint.glob("adapter_model.*")) or not config
    if not weights and adapter and (checkpoint / "adapter_config.json").exists():
        raise UnsupportedCheckpoint(
            shown_name(checkpoint),
            "it is an adapter (PEFT) without the model that it adapts",
            hint="Merge it into its base model and save the whole",
        )
    if not weights and any(checkpoint.glob("*.gguf")):
        raise UnsupportedCheckpoint(shown_name(checkpoint), "its weights are in GGUF, not in *.safetensors")
    if not config:
        raise UnsupportedCheckpoint(shown_name(checkpoint), "it holds no config.json")


def _read_config(checkpoint: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnsupportedCheckpoint(shown_name(checkpoint), "it has no config.json that can be read as JSON") from error
    if not isinstance(config, dict):
        raise UnsupportedCheckpoint(shown_name(checkpoint), "its config.json is not a JSON object")
    return config


def _is_original_llava(config: Mapping[str, Any]) -> bool:
    """Whether a config is in the layout of LLaVA's original code, which has the vision tower in another checkpoint."""
    architectures = config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    own_class = any(name.startswith("Llava") and name.endswith("ForCausalLM") for name in names)
    return "vision_config" not in config and ("mm_vision_tower" in config or own_class)


def _check_vision_tower(name: str, family: str, vision: Any) -> None:
    if not isinstance(vision, dict):
        raise UnsupportedCheckpoint(name, "its vision_config is not a JSON object")
    kind = vision.get("model_type")
    if kind is not None and kind not in _CLIP_MODEL_TYPES:
        raise UnsupportedCheckpoint(name, f"its vision tower is a {kind!r}, and family {family} takes a CLIP one")
