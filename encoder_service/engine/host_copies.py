"""Tensors that are copied to the CPU together."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from torch import Tensor

from fovea.modeling.transfers import to_host

__all__ = ["HostCopies"]


class HostCopies:
    """Copies of tensors on the CPU as numpy arrays, by tensor. All are made at once, after which none can be added."""

    def __init__(self) -> None:
        self._tensors: dict[int, Tensor] = {}
        self._arrays: dict[int, npt.NDArray[Any]] = {}

    def add(self, *tensors: Tensor | None) -> None:
        """Adds tensors; None is ignored, and a tensor that was added before is not copied twice."""
        self._tensors |= {id(tensor): tensor for tensor in tensors if tensor is not None}

    def copy(self) -> None:
        """Copies all tensors to the CPU, which is waited for."""
        self._arrays = dict(zip(self._tensors, to_host(list(self._tensors.values())), strict=True))

    def __getitem__(self, tensor: Tensor) -> npt.NDArray[Any]:
        return self._arrays[id(tensor)]
