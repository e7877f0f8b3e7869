"""vLLM's configuration, built from a checkpoint and the operator's `engine_args`."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform

from fovea.modeling.compute import resolve_device
from fovea.modeling.errors import CheckpointError
from fovea.similar_names import similar_name
from llm_service.models.base import VisualEmbedder
from llm_service.vllm_plugin import ARCHITECTURES

__all__ = ["check_names", "engine_arguments", "vllm_device"]

# Arguments that a setting of the service already determines.
_SETTINGS: Final = {
    "model": "--model",
    "revision": "--revision",
    "served_model_name": "--served-model-name",
    "dtype": "--dtype",
    "max_model_len": "--max-model-len",
    "max_num_seqs": "--max-batch-size",
}
# Arguments whose values the engine relies on: it validates and embeds prompts, and detokenizes answers, by itself.
_RESERVED: Final = frozenset(
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


def check_names(engine_args: Mapping[str, Any]) -> None:
    """Refuses arguments that vLLM does not have and those that the operator may not set.

    Raises:
        CheckpointError: An argument is refused; the message lists the accepted ones.
    """
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    for name in engine_args:
        if name in _SETTINGS:
            raise CheckpointError(f"engine_args cannot hold {name!r}: the setting {_SETTINGS[name]} determines it")
        if name in _RESERVED:
            raise CheckpointError(f"engine_args cannot hold {name!r}: the engine relies on its own value")
        if name not in known:
            similar = similar_name(name, known)
            raise CheckpointError(
                f"engine_args holds {name!r}, which this vLLM does not have"
                + (f"; did you mean {similar!r}?" if similar else ".")
                + f" Accepted: {', '.join(sorted(known - _RESERVED - _SETTINGS.keys()))}"
            )


def engine_arguments(
    checkpoint: Path,
    embedder: VisualEmbedder,
    engine_args: Mapping[str, Any],
    *,
    max_model_len: int,
    max_batch_size: int,
) -> AsyncEngineArgs:
    """vLLM's arguments: those of the operator, and those that the engine relies on.

    The limits of 0 images and videos keep vLLM from loading towers; they do not count embeddings.

    Raises:
        CheckpointError: vLLM does not accept an argument or its value.
    """
    check_names(engine_args)
    required: dict[str, Any] = {
        "model": str(checkpoint),
        "dtype": str(embedder.dtype).removeprefix("torch."),
        "max_model_len": max_model_len,
        "max_num_seqs": max_batch_size,
        "generation_config": "vllm",
        "max_logprobs": -1,
        "logprobs_mode": "raw_logprobs",
    }
    if embedder.has_grid_positions:
        required |= {"enable_mm_embeds": True, "limit_mm_per_prompt": {"image": 0, "video": 0}}
    else:
        required |= {"enable_prompt_embeds": True, "language_model_only": True, "skip_tokenizer_init": True}
    if architecture := ARCHITECTURES[embedder.family]:
        required["hf_overrides"] = {"architectures": [architecture]}
    try:
        # With vLLM's default seed, 0, answers sampled without a seed would repeat after every start.
        return AsyncEngineArgs(**{"seed": secrets.randbits(31), **engine_args, **required})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"vLLM does not accept engine_args: {error}") from error


def vllm_device(name: str) -> torch.device:
    """Device of the projector: the kind of device for which the installed vLLM is built.

    Raises:
        CheckpointError: `name` is another device.
    """
    built_for = current_platform.device_type
    if name not in ("auto", built_for):
        raise CheckpointError(f"device {name} cannot be used: the installed vLLM is built for {built_for}")
    return resolve_device(built_for if built_for in ("cpu", "cuda") else "cpu")
