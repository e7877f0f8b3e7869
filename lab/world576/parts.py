"""State of a training on disk: safetensors in parts of at most 16 MB with an index, whole at any time.

A run that is stopped goes on from its state and gives the result of a run that was not. Where only the checkpoint has
been kept, it goes on from the weights, with the step and the number of steps in `training.json` beside them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file
from torch import Tensor

from lab.optimizer import MasterOptimizer
from lab.world576.recipe import MAX_TENSOR_BYTES

_INDEX = "index.json"


def save_tensors(folder: Path, tensors: dict[str, Tensor], content: dict[str, Any]) -> None:
    """Writes tensors in parts of at most `recipe.MAX_PART_BYTES` and some JSON content. The old folder is replaced.

    Args:
        folder: folder to write.
        tensors: tensors by name.
        content: JSON content of the index.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    split = split_torch_state_dict_into_shards(
        own, max_shard_size=MAX_TENSOR_BYTES, filename_pattern="part{suffix}.safetensors"
    )
    for name, keys in split.filename_to_tensors.items():
        save_file({key: own[key] for key in keys}, str(partial / name))
    (partial / _INDEX).write_text(json.dumps(content | {"files": sorted(split.filename_to_tensors)}, indent=2) + "\n")
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_tensors(folder: Path, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and content of `save_tensors`, or None where there is no whole folder."""
    for candidate in (folder, folder.with_name(f"{folder.name}.old")):
        if (candidate / _INDEX).exists():
            content: dict[str, Any] = json.loads((candidate / _INDEX).read_text())
            tensors: dict[str, Tensor] = {}
            for name in content.pop("files"):
                tensors |= load_file(str(candidate / name), device=str(device))
            return tensors, content
    return None


def save_optimizer(folder: Path, optimizer: MasterOptimizer, step: int, steps: int) -> None:
    """Writes the state of a run after `step` of `steps` steps."""
    state = optimizer.state_dict()
    tensors = {f"{group}/{name}": t for group in ("masters", "first", "second") for name, t in state[group].items()}
    save_tensors(folder, tensors, {"step": step, "steps": steps, "count": state["count"]})


def load_optimizer(folder: Path, optimizer: MasterOptimizer, device: torch.device) -> tuple[int, int] | None:
    """Step and number of steps of a saved run, whose state `optimizer` takes over; None where there is none."""
    loaded = load_tensors(folder, device)
    if loaded is None:
        return None
    state: dict[str, Any] = {"masters": {}, "first": {}, "second": {}, "count": loaded[1]["count"]}
    for key, tensor in loaded[0].items():
        group, _, name = key.partition("/")
        state[group][name] = tensor
    optimizer.load_state_dict(state)
    return int(loaded[1]["step"]), int(loaded[1]["steps"])


def adopt_weights(optimizer: MasterOptimizer, weights: Mapping[str, Tensor]) -> None:
    """Replaces the masters and parameters that `weights` names. Moments stay as they are."""
    with torch.no_grad():
        for name, master in optimizer.masters.items():
            if name in weights:
                master.copy_(weights[name])
                optimizer.params[name].copy_(master)


def save_progress(checkpoint: Path, step: int, steps: int) -> None:
    """Writes `training.json` into the folder of a checkpoint."""
    (checkpoint / "training.json").write_text(json.dumps({"step": step, "steps": steps}) + "\n")


def load_progress(checkpoint: Path) -> tuple[int, int] | None:
    """Step and number of steps of a checkpoint; None where there is no trained one."""
    file = checkpoint / "training.json"
    if not file.exists():
        return None
    content = json.loads(file.read_text())
    return int(content["step"]), int(content["steps"])
