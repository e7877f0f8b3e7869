"""Weights of a checkpoint: reading them by name, and assigning them to a module. Other tensors are not read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fovea.modeling.errors import CheckpointError

__all__ = ["assign_weights", "read_tensors"]

# Old checkpoints store these two buffers; transformers computes them.
_COMPUTED: Final = re.compile(r"(^|\.)(position_ids|rotary_emb\.inv_freq)$")


def read_tensors(
    checkpoint: Path,
    prefixes: Mapping[str, str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """Tensors whose name starts with one of `prefixes`, by their new name.

    Only the shards with such tensors are opened. Where no safetensors file has one, pytorch_model*.bin is read, the
    form of OpenAI's CLIP. Its tensors are read without running pickled code.

    Args:
        checkpoint: directory with *.safetensors, and with an index for several shards.
        prefixes: new prefix by old prefix of a tensor's name; the first matching prefix counts.
        dtype: dtype of the returned tensors; None for the stored one.
        device: device of the returned tensors; None for the CPU.

    Raises:
        CheckpointError: a file is missing or broken.
    """
    tensors: dict[str, Tensor] = {}
    try:
        for shard, names in _names_by_shard(checkpoint).items():
            if renamed := _renamed(names, prefixes):
                with safe_open(shard, framework="pt") as file:
                    tensors |= {
                        new: file.get_tensor(name).to(device=device, dtype=dtype) for name, new in renamed.items()
                    }
        if not tensors:
            for path in sorted(checkpoint.glob("pytorch_model*.bin")):
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                for name, new in _renamed(list(state), prefixes).items():
                    tensors[new] = state[name].to(device=device, dtype=dtype)
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"the weights of {checkpoint.name!r} cannot be read ({type(error).__name__}); is the download complete?"
        ) from error
    return tensors


def _names_by_shard(checkpoint: Path) -> dict[Path, list[str]]:
    index = checkpoint / "model.safetensors.index.json"
    shards: dict[Path, list[str]] = {}
    if index.is_file():
        for name, file_name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
            # Only the file's name counts: an index must not lead out of its directory.
            shards.setdefault(checkpoint / Path(file_name).name, []).append(name)
        return shards
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            shards[path] = list(file.keys())
    return shards


def _renamed(names: list[str], prefixes: Mapping[str, str]) -> dict[str, str]:
    """New name by old name of the tensors that match one of `prefixes`."""
    renamed = {}
    for name in names:
        old = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if old is not None and not _COMPUTED.search(name):
            renamed[name] = prefixes[old] + name.removeprefix(old)
    return renamed


def assign_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Assigns `tensors` as the parameters of `module`, without a copy, and prepares it for inference.

    Args:
        module: module, possibly on the meta device.
        tensors: tensor for each entry of the module's state.
        what: name of the module for the error ("language model").

    Raises:
        CheckpointError: tensors are missing, unknown or of another shape; the message names the first.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        absent = f"holds no {what}: it " if len(missing) == len(expected) else ""
        raise CheckpointError(
            f"the checkpoint {absent}lacks {len(missing)} of {len(expected)} tensors of the {what}, {missing[0]!r}"
            " among them"
        )
    unknown = sorted(tensors.keys() - expected.keys())
    if unknown:
        raise CheckpointError(f"the checkpoint's config has no tensor {unknown[0]!r} in the {what}")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"{name!r} of the {what} has shape {list(tensors[name].shape)}; the config says {list(shape)}"
            )
    module.load_state_dict(dict(tensors), assign=True)
    module.requires_grad_(False).eval()
