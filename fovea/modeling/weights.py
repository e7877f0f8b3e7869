"""Weights of a checkpoint: reading them by name, and assigning them to a module. Other tensors are not read."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fovea.modeling.errors import CheckpointError

__all__ = ["assign_weights", "file_errors", "find_tensor", "read_tensors"]

# Old checkpoints store these two buffers; transformers computes them.
_COMPUTED: Final = re.compile(r"(^|\.)(position_ids|rotary_emb\.inv_freq)$")


def read_tensors(
    checkpoint: Path,
    prefixes: Mapping[str, str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    reads_bin: bool = False,
) -> dict[str, Tensor]:
    """Tensors whose name starts with one of `prefixes`, by their new name.

    Of a sharded checkpoint only the shards that hold one of them are opened.

    Args:
        checkpoint: directory with *.safetensors, and an index if they are several.
        prefixes: start of a name in the checkpoint to what stands in its place; the first that fits counts.
        dtype: dtype that they are converted to; None: as stored.
        device: device that they are moved to; None: the CPU.
        reads_bin: whether pytorch_model*.bin is read where no safetensors file holds one of them. OpenAI's CLIP is
            published in this form. The files are read as plain tensors, never as pickled code.

    Raises:
        CheckpointError: a file is missing or broken.
    """
    stored = _stored(checkpoint, prefixes, reads_bin=reads_bin)
    return {name: tensor.to(device=device, dtype=dtype) for name, tensor in stored}


def _stored(checkpoint: Path, prefixes: Mapping[str, str], *, reads_bin: bool) -> Iterator[tuple[str, Tensor]]:
    """New name and stored tensor, one after the other, so that only one is held beside its converted copy."""
    is_found = False
    with file_errors(checkpoint):
        for shard, names in _names_by_shard(checkpoint).items():
            if renamed := _renamed(names, prefixes):
                with safe_open(shard, framework="pt") as file:
                    for name, new in renamed.items():
                        is_found = True
                        yield new, file.get_tensor(name)
        if reads_bin and not is_found:
            yield from _stored_in_bin(checkpoint, prefixes)


def _stored_in_bin(checkpoint: Path, prefixes: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    for path in sorted(checkpoint.glob("pytorch_model*.bin")):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:  # what torch raises for a broken archive
            raise _unreadable(checkpoint, error) from error
        for name, new in _renamed(list(state), prefixes).items():
            yield new, state[name]


def find_tensor(checkpoint: Path, names: Collection[str]) -> tuple[Path, str] | None:
    """File and name of the tensor that has one of `names`; None if no safetensors file holds it.

    Raises:
        CheckpointError: a file is missing or broken.
    """
    with file_errors(checkpoint):
        shards = _names_by_shard(checkpoint)
    return next(((shard, name) for shard, stored in shards.items() for name in stored if name in names), None)


@contextmanager
def file_errors(checkpoint: Path) -> Iterator[None]:
    """Errors of missing and broken weight files, raised as `CheckpointError`."""
    try:
        yield
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise _unreadable(checkpoint, error) from error


def _unreadable(checkpoint: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"the weights of {checkpoint.name!r} cannot be read ({type(error).__name__}); is the download complete?"
    )


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
