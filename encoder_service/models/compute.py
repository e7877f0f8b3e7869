"""Where and in what a model computes, the same for every family."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import torch
from torch import nn

import fovea
from encoder_service.models.base import CheckpointError, LoadOptions

__all__ = ["num_parameters", "place", "resolve_device", "resolve_dtype", "settings_fingerprint"]

_Module = TypeVar("_Module", bound=nn.Module)


def resolve_device(name: str) -> torch.device:
    """The device called `name`; auto is CUDA where there is a device.

    Raises:
        CheckpointError: CUDA is asked for and not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("device cuda was asked for, and there is none; accepted: auto, cpu, cuda")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device, stored: torch.dtype) -> torch.dtype:
    """The compute dtype called `name`; auto is float32 on the CPU, else that of the stored weights."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    return torch.float32 if device.type == "cpu" else stored


def place(module: _Module, device: torch.device, dtype: torch.dtype) -> _Module:
    """`module` itself, moved there and ready for inference."""
    return module.to(device=device, dtype=dtype).eval().requires_grad_(False)


def num_parameters(*modules: nn.Module) -> int:
    """Number of weights in all modules together."""
    return sum(weights.numel() for module in modules for weights in module.parameters())


def settings_fingerprint(options: LoadOptions, device: torch.device, dtype: torch.dtype, *processors: str) -> str:
    """16 hex digits that change when the same checkpoint may give other features.

    Args:
        options: How it was loaded.
        device: Where it computes.
        dtype: In what.
        processors: What turns pictures into pixel values, in words.
    """
    changes_results = (fovea.__version__, device.type, str(dtype), options.attn_implementation, *processors)
    return hashlib.sha256("|".join(changes_results).encode()).hexdigest()[:16]
