"""Copies between the CPU and the device of a model, few and without waiting where that is possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["to_device", "to_host"]

_ALIGNMENT: Final = 8


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` of the CPU on `device`. A copy to CUDA goes through pinned memory, and nothing waits for it."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tensors: Sequence[Tensor]) -> list[npt.NDArray[Any]]:
    """Tensors as numpy arrays of their shapes and dtypes, by one copy from the device, which is waited for."""
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return [_read_only(tensor.numpy()) for tensor in tensors]
    packed = pack(tensors)
    pinned = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=True)
    pinned.copy_(packed, non_blocking=True)
    torch.cuda.current_stream(packed.device).synchronize()
    return unpack(pinned, tensors)


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array, which may share its memory with features that are cached."""
    array.flags.writeable = False
    return array


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """Bytes of all tensors, one after the other, each at a multiple of 8, [n] uint8."""
    parts: list[Tensor] = []
    for tensor in tensors:
        part = tensor.contiguous().view(-1).view(torch.uint8)
        parts.append(part)
        if padding := -len(part) % _ALIGNMENT:
            parts.append(part.new_empty(padding))
    return torch.cat(parts)


def unpack(packed: Tensor, tensors: Sequence[Tensor]) -> list[npt.NDArray[Any]]:
    """Arrays of the shapes and dtypes of `tensors` in the bytes that `pack` made of them, without a copy."""
    data, arrays, start = packed.numpy(), [], 0
    for tensor in tensors:
        dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
        end = start + tensor.numel() * dtype.itemsize
        arrays.append(data[start:end].view(dtype).reshape(tensor.shape))
        start = end + -end % _ALIGNMENT
    return arrays
