"""Reading the wanted tensors of a safetensors checkpoint, and only those."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from llm_service.models.base import CheckpointError

__all__ = ["assign", "read_tensors"]


def read_tensors(
    checkpoint: Path, prefixes: Mapping[str, str], *, dtype: torch.dtype, device: torch.device
) -> dict[str, torch.Tensor]:
    """All tensors whose name starts with one of `prefixes`, by their new name.

    A shard that holds none of them is never opened, and in the others nothing else is read.

    Args:
        checkpoint: Directory with *.safetensors, and an index if they are several.
        prefixes: Start of a name in the checkpoint -> what stands in its place in the result.
        dtype: The tensors are converted to it.
        device: The tensors are moved to it.

    Raises:
        CheckpointError: A file cannot be read.
    """
    found = {}
    try:
        for shard, names in _names_by_shard(checkpoint).items():
            wanted = {name: new for name in names if (new := _renamed(name, prefixes)) is not None}
            if not wanted:
                continue
            with safe_open(shard, framework="pt") as file:
                for name, new in wanted.items():
                    found[new] = file.get_tensor(name).to(device=device, dtype=dtype)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"the weights of {checkpoint.name!r} cannot be read ({type(error).__name__}); is the download complete?"
        ) from error
    return found


def _names_by_shard(checkpoint: Path) -> dict[Path, list[str]]:
    index = checkpoint / "model.safetensors.index.json"
    shards: dict[Path, list[str]] = {}
    if index.is_file():
        for name, file_name in json.loads(index.read_text())["weight_map"].items():
            shards.setdefault(checkpoint / Path(file_name).name, []).append(name)
        return shards
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            shards[path] = list(file.keys())
    return shards


def _renamed(name: str, prefixes: Mapping[str, str]) -> str | None:
    # Old checkpoints store this table; transformers computes it.
    if name.endswith("rotary_emb.inv_freq"):
        return None
    return next((new + name.removeprefix(old) for old, new in prefixes.items() if name.startswith(old)), None)


def assign(module: nn.Module, tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Makes `tensors` the parameters of `module`, which may lie on the meta device.

    Args:
        module: Takes the tensors as they are, without a copy.
        tensors: One for each parameter.
        what: Name for the error ("language model").

    Raises:
        CheckpointError: Tensors are missing, unknown or of another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise CheckpointError(
            f"the checkpoint lacks {len(missing)} of {len(expected)} tensors of the {what}, {missing[0]!r} among them"
        )
    unknown = sorted(tensors.keys() - expected.keys())
    if unknown:
        raise CheckpointError(f"the checkpoint's config knows no tensor {unknown[0]!r} in the {what}")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"{name!r} of the {what} has shape {list(tensors[name].shape)}; the config says {list(shape)}"
            )
    module.load_state_dict(dict(tensors), assign=True)
    module.requires_grad_(False).eval()
