"""A golden directory: its cases, what they run on, and how a result is compared with what is expected."""

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

__all__ = ["Array", "Comparison", "Context", "GoldenCase", "compare", "load_cases"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class GoldenCase:
    """One entry of the manifest.

    Attributes:
        root: The golden directory.
        id: Unique in it.
        method: A key of `METHODS`.
        params: Of the method, exactly as the manifest has them.
        file: The npz of the expected arrays, relative to `root`; `inputs.npz` lies beside it.
        arrays: By name: shape, dtype, tolerances.
        float32_decisive: Every choice of the case is clear enough for a float32 run to be compared.
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
        """The npz of what it runs on."""
        return (self.root / self.file).with_name("inputs.npz")

    def expected(self) -> dict[str, Array]:
        """The arrays by name."""
        with np.load(self.root / self.file) as stored:
            return {name: stored[f"{self.id}/{name}"] for name in self.arrays}


def load_cases(root: Path) -> list[GoldenCase]:
    """All cases of the directory's manifest, in its order.

    Raises:
        OSError: There is no manifest.
        ValueError: It is not one.
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
    """The networks and inputs of a golden directory in one precision, loaded when first asked for.

    Args:
        root: The golden directory.
        dtype: float64 or float32.
    """

    def __init__(self, root: Path, dtype: torch.dtype = torch.float64) -> None:
        self.root = root
        self.dtype = dtype
        self._inputs: dict[Path, dict[str, Array]] = {}

    def inputs(self, case: GoldenCase) -> dict[str, Array]:
        """The arrays that the case runs on."""
        return self.load(case.inputs_file)

    def load(self, inputs_file: Path) -> dict[str, Array]:
        """The arrays of one `inputs.npz`."""
        if inputs_file not in self._inputs:
            with np.load(inputs_file) as stored:
                self._inputs[inputs_file] = {name: stored[name] for name in stored.files}
        return self._inputs[inputs_file]

    def tensor(self, array: Array) -> Tensor:
        """Floating-point numbers in this precision, integers as int64."""
        if array.dtype.kind in "iu":
            return torch.from_numpy(array.astype(np.int64))
        return torch.from_numpy(array.astype(np.float64)).to(self.dtype)

    @cached_property
    def clip(self) -> CLIPModel:
        """`clip24`: vision tower, text tower, projections."""
        return CLIPModel.from_pretrained(self.root / "clip24", dtype=self.dtype).eval().requires_grad_(False)

    @cached_property
    def llama(self) -> LlamaForCausalLM:
        """`llama32`."""
        return LlamaForCausalLM.from_pretrained(self.root / "llama32", dtype=self.dtype).eval().requires_grad_(False)

    @cached_property
    def projector(self) -> nn.Sequential:
        """Between them: linear, exact GELU, linear."""
        weights = load_file(self.root / "projector.safetensors")
        layers = {}
        for name in ("linear_1", "linear_2"):
            made, taken = weights[f"{name}.weight"].shape
            layers[name] = nn.Linear(taken, made)
            layers[name].load_state_dict({part: weights[f"{name}.{part}"] for part in ("weight", "bias")})
        projector = nn.Sequential(layers["linear_1"], nn.GELU(), layers["linear_2"])
        return projector.to(self.dtype).eval().requires_grad_(False)


@dataclass(frozen=True)
class Comparison:
    """The array of a case that lies worst.

    Attributes:
        array: Its name.
        difference: The largest absolute difference; inf for another shape, a missing array or NaN.
        tolerance: 0 for integers and masks.
    """

    array: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Within the tolerance."""
        return self.difference <= self.tolerance


def compare(case: GoldenCase, got: Mapping[str, Array], precision: str) -> Comparison:
    """Every expected array against what was computed, in `precision` float64 or float32; returns the worst."""
    comparisons = []
    for name, want in case.expected().items():
        tolerance = 0.0 if want.dtype.kind in "iub" else float(case.arrays[name]["tolerance"][precision])
        comparisons.append(Comparison(name, _difference(got.get(name), want), tolerance))
    return max(comparisons, key=lambda one: (not one.passed, one.difference / (one.tolerance or 1.0)))


def _difference(got: Array | None, want: Array) -> float:
    if got is None or np.shape(got) != want.shape:
        return math.inf
    largest = float(np.max(np.abs(np.asarray(got, dtype=np.float64) - want.astype(np.float64)), initial=0.0))
    return math.inf if math.isnan(largest) else largest
