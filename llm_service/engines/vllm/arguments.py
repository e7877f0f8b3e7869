"""From a checkpoint and the operator's `engine_args` to vLLM's own configuration."""

from __future__ import annotations

import dataclasses
import difflib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform

from fovea.modeling.compute import resolve_device
from fovea.modeling.errors import CheckpointError
from llm_service.models.base import VisualSide
from llm_service.vllm_plugin import ARCHITECTURE, VIDEO_LLAVA_ARCHITECTURE

__all__ = ["check_names", "engine_arguments", "vllm_device"]

# The settings of the service that say the same. Two voices on one thing would be one too many.
_SETTINGS: Final = {
    "model": "--model",
    "revision": "--revision",
    "served_model_name": "--served-model-name",
    "dtype": "--dtype",
    "max_model_len": "--max-model-len",
    "max_num_seqs": "--max-batch-size",
}
# What the engine relies on: prompts are checked and spliced here, and text is made of ids here.
_RELIED_ON: Final = frozenset(
    {
        "enable_mm_embeds",
        "enable_prompt_embeds",
        "generation_config",
        "hf_config_path",
        "hf_overrides",
        "language_model_only",
        "limit_mm_per_prompt",
        "logprobs_mode",
        "max_logprobs",
        "runner",
        "skip_tokenizer_init",
        "tokenizer",
        "tokenizer_revision",
    }
)

# Architectures of ours for families that vLLM does not list, or whose positions it would get wrong.
_ARCHITECTURES: Final = {"video_llava": VIDEO_LLAVA_ARCHITECTURE, "qwen2_5_vl": ARCHITECTURE}


def check_names(engine_args: Mapping[str, Any]) -> None:
    """Refuses names that vLLM does not have, and those that are not the operator's to set.

    Raises:
        CheckpointError: One of them is; says what is accepted.
    """
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    for name in engine_args:
        if name in _SETTINGS:
            raise CheckpointError(f"engine_args cannot hold {name!r}: the setting {_SETTINGS[name]} says it")
        if name in _RELIED_ON:
            raise CheckpointError(f"engine_args cannot hold {name!r}: the engine relies on its own value")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise CheckpointError(
                f"engine_args holds {name!r}, which this vLLM does not have"
                + (f"; did you mean {near[0]!r}?" if near else "")
                + f" It has {', '.join(sorted(known - _RELIED_ON - _SETTINGS.keys()))}"
            )


def engine_arguments(
    checkpoint: Path,
    visual: VisualSide,
    engine_args: Mapping[str, Any],
    *,
    max_model_len: int,
    max_batch_size: int,
) -> AsyncEngineArgs:
    """What vLLM is started with: the operator's arguments, and what the engine relies on.

    Towers are not loaded: all limits on pictures and videos are 0, and what has been embedded is not counted.

    Raises:
        CheckpointError: vLLM does not accept an argument, or its value.
    """
    check_names(engine_args)
    own: dict[str, Any] = {
        "model": str(checkpoint),
        "dtype": str(visual.dtype).removeprefix("torch."),
        "max_model_len": max_model_len,
        "max_num_seqs": max_batch_size,
        "generation_config": "vllm",
        "max_logprobs": -1,
        "logprobs_mode": "raw_logprobs",
    }
    if visual.has_grid_positions:
        own |= {"enable_mm_embeds": True, "limit_mm_per_prompt": {"image": 0, "video": 0}}
    else:
        own |= {"enable_prompt_embeds": True, "language_model_only": True, "skip_tokenizer_init": True}
    if visual.family in _ARCHITECTURES:
        own["hf_overrides"] = {"architectures": [_ARCHITECTURES[visual.family]]}
    try:
        # vLLM's own default is 0: what is sampled without a seed would repeat itself after every start.
        return AsyncEngineArgs(**{"seed": secrets.randbits(31), **engine_args, **own})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"vLLM does not accept engine_args: {error}") from error


def vllm_device(name: str) -> torch.device:
    """Where projectors run: beside the model, on the device for which the installed vLLM is built.

    Raises:
        CheckpointError: Another device is asked for.
    """
    built_for = current_platform.device_type
    if name not in ("auto", built_for):
        raise CheckpointError(f"device {name} is asked for, but the installed vLLM is built for {built_for}")
    return resolve_device(built_for if built_for in ("cpu", "cuda") else "cpu")
