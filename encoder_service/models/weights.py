"""Reading some of a checkpoint's tensors by name, without touching the others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from encoder_service.models.base import CheckpointError

__all__ = ["as_config", "load_into", "read_config", "read_tensors"]

_MAX_ERROR_CHARS = 300

# Old CLIP checkpoints carry it as a tensor; today it is computed.
_BUFFERS = re.compile(r"(^|\.)position_ids$")


def read_config(checkpoint: Path) -> dict[str, object]:
    """config.json of a checkpoint.

    Raises:
        CheckpointError: There is none, or it is not a JSON object.
    """
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.name!r} has no readable config.json") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"the config.json of {checkpoint.name!r} is not a JSON object")
    return config


def as_config(kind: type[Any], config: object, what: str) -> Any:
    """A part of config.json as a class of transformers.

    Raises:
        CheckpointError: transformers refuses what it holds.
    """
    try:
        return kind.from_dict(config)
    except Exception as error:  # each field has its own way to be wrong
        reason = " ".join(str(error).split())[:_MAX_ERROR_CHARS]
        raise CheckpointError(f"transformers cannot read the config of the {what}: {reason}") from error


def read_tensors(checkpoint: Path, pattern: str) -> dict[str, Tensor]:
    """The tensors whose whole name matches `pattern`, under the name that its first group captures.

    Of a sharded checkpoint only the shards that hold one of them are opened. A pytorch_model*.bin (the form in which
    OpenAI's CLIP is published) is read where there is no safetensors file, as plain tensors, never as pickled code.

    Raises:
        CheckpointError: A file is missing or broken.
    """
    name = re.compile(pattern)

    def wanted(key: str) -> str | None:
        match = name.fullmatch(key)
        return match.group(1) if match and not _BUFFERS.search(key) else None

    tensors: dict[str, Tensor] = {}
    try:
        for path in _shards(checkpoint, wanted):
            with safe_open(path, framework="pt") as shard:
                tensors |= {new: shard.get_tensor(key) for key in shard.keys() if (new := wanted(key))}  # noqa: SIM118
        if not tensors:
            for path in sorted(checkpoint.glob("pytorch_model*.bin")):
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                tensors |= {new: tensor for key, tensor in state.items() if (new := wanted(key))}
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"the weights of {checkpoint.name!r} are broken ({type(error).__name__})") from error
    return tensors


def _shards(checkpoint: Path, wanted: object) -> list[Path]:
    index = checkpoint / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(checkpoint.glob("*.safetensors"))
    assert callable(wanted)
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return [checkpoint / name for name in sorted({file for key, file in weight_map.items() if wanted(key)})]
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"the weight index of {checkpoint.name!r} is broken") from error


def load_into(module: nn.Module, tensors: dict[str, Tensor], *, what: str) -> None:
    """Makes `tensors` the parameters of `module`, which may have been built on the meta device.

    Raises:
        CheckpointError: One is missing, one too many, or of another shape; names the first.
    """
    expected = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    for key, shape in expected.items():
        if key not in tensors:
            raise CheckpointError(f"the checkpoint holds no {what}: {key} is missing")
        if tuple(tensors[key].shape) != shape:
            raise CheckpointError(f"{key} of the {what} is {list(tensors[key].shape)}, its config says {list(shape)}")
    surplus = sorted(tensors.keys() - expected.keys())
    if surplus:
        raise CheckpointError(f"the {what} holds {surplus[0]}, which its config does not know")
    module.load_state_dict(tensors, assign=True)
