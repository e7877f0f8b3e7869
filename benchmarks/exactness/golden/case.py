"""A golden directory: its cases, their networks and inputs, and the comparison of a result with the expected arrays."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPModel, LlamaForCausalLM

from fovea.modeling.compute import for_inference

__all__ = ["Array", "Comparison", "Context", "GoldenCase", "compare", "load_cases"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class GoldenCase:
    """One entry of the manifest.

    Attributes:
        root: The golden directory.
        id: Name of the case, unique in the directory.
        method: A key of `METHODS`.
        params: Parameters of the method, exactly as the manifest has them.
        file: Path of the npz of the expected arrays, relative to `root`; `inputs.npz` lies in the same folder.
        arrays: Shape, dtype and tolerances of each array, by name.
        float32_decisive: Whether every choice of the case is clear enough for a run in float32.
    """

    root: Path
    id: str
    method: str
    params: Mapping[str, Any]
    file: str
    arrays: Mapping[str, Mapping[str, Any]]
    float32_decisive: bool = True

    @property
    def inputs_file(self) -> Path:
        """Path of the npz of its inputs."""
        return (self.root / self.file).with_name("inputs.npz")

    def expected(self) -> dict[str, Array]:
        """The expected arrays by name."""
        with np.load(self.root / self.file) as stored:
            return {name: stored[f"{self.id}/{name}"] for name in self.arrays}


def load_cases(root: Path) -> list[GoldenCase]:
    """All cases of the directory's manifest, in its order.

    Raises:
        OSError: The directory has no manifest.
        ValueError: The file is not a golden manifest.
    """
    manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    try:
        return [
            GoldenCase(
                root,
                entry["id"],
                entry["method"],
                entry["params"],
                entry["file"],
                entry["arrays"],
                bool(entry.get("float32_decisive", True)),
            )
            for entry in manifest["cases"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"manifest.json is not a golden manifest: {error!r}") from error


class Context:
    """The networks and inputs of a golden directory in one precision, loaded on first use.

    Args:
        root: The golden directory.
        dtype: Precision, float64 or float32.
        device: Device of the networks and inputs; None for the CPU.
    """

    def __init__(self, root: Path, dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> None:
        self.root = root
        self.dtype = dtype
        self.device = device or torch.device("cpu")
        self._inputs: dict[Path, dict[str, Array]] = {}

    def inputs(self, case: GoldenCase) -> dict[str, Array]:
        """The input arrays of a case."""
        return self.load(case.inputs_file)

    def load(self, inputs_file: Path) -> dict[str, Array]:
        """The arrays of one `inputs.npz`."""
        if inputs_file not in self._inputs:
            with np.load(inputs_file) as stored:
                self._inputs[inputs_file] = {name: stored[name] for name in stored.files}
        return self._inputs[inputs_file]

    def tensor(self, array: Array) -> Tensor:
        """The array as a tensor: floating-point numbers in this precision, integers as int64."""
        if array.dtype.kind in "iu":
            return torch.from_numpy(array.astype(np.int64)).to(self.device)
        return torch.from_numpy(array.astype(np.float64)).to(self.device, self.dtype)

    @cached_property
    def clip(self) -> CLIPModel:
        """The CLIP in `clip24`: vision tower, text tower, projections."""
        clip = CLIPModel.from_pretrained(self.root / "clip24", dtype=self.dtype)
        return for_inference(clip, self.device, self.dtype)

    @cached_property
    def llama(self) -> LlamaForCausalLM:
        """The language model in `llama32`."""
        llama = LlamaForCausalLM.from_pretrained(self.root / "llama32", dtype=self.dtype)
        return for_inference(llama, self.device, self.dtype)

    @cached_property
    def projector(self) -> nn.Sequential:
        """The projector between the two: linear, exact GELU, linear."""
        weights = load_file(self.root / "projector.safetensors")
        layers = {}
        for name in ("linear_1", "linear_2"):
            out_features, in_features = weights[f"{name}.weight"].shape
            layers[name] = nn.Linear(in_features, out_features)
            layers[name].load_state_dict({key: weights[f"{name}.{key}"] for key in ("weight", "bias")})
        projector = nn.Sequential(layers["linear_1"], nn.GELU(), layers["linear_2"])
        return for_inference(projector, self.device, self.dtype)


@dataclass(frozen=True)
class Comparison:
    """The worst array of a case.

    Attributes:
        array: Name of the array.
        difference: Largest absolute difference; inf for another shape, a missing array or NaN.
        tolerance: Accepted difference; 0 for integers and masks.
    """

    array: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance


def compare(case: GoldenCase, got: Mapping[str, Array], precision: str) -> Comparison:
    """Compares every expected array with the computed one; returns the worst.

    Args:
        case: The case.
        got: Computed arrays by name.
        precision: Precision of the run, "float64" or "float32".
    """
    comparisons = []
    for name, want in case.expected().items():
        tolerance = 0.0 if want.dtype.kind in "iub" else float(case.arrays[name]["tolerance"][precision])
        comparisons.append(Comparison(name, _difference(got.get(name), want), tolerance))
    return max(comparisons, key=lambda worst: (not worst.passed, worst.difference / (worst.tolerance or 1.0)))


def _difference(got: Array | None, want: Array) -> float:
    if got is None or np.shape(got) != want.shape:
        return math.inf
    largest = float(np.max(np.abs(np.asarray(got, dtype=np.float64) - want.astype(np.float64)), initial=0.0))
    return math.inf if math.isnan(largest) else largest
