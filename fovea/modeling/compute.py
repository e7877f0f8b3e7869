"""Device, compute dtype and threads of a model."""

from __future__ import annotations

import logging
from typing import TypeVar

import torch
from torch import nn

from fovea.modeling.errors import CheckpointError
from fovea.processes.cores import available_cores, model_threads

__all__ = ["for_inference", "num_parameters", "resolve_device", "resolve_dtype", "set_threads"]

log = logging.getLogger(__name__)

_Module = TypeVar("_Module", bound=nn.Module)


def resolve_device(name: str) -> torch.device:
    """Device called `name`: cpu, cuda, or auto, which is CUDA where there is a CUDA device.

    Raises:
        CheckpointError: `name` is cuda, and there is no CUDA device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("device cuda is asked for, but torch finds no CUDA device; accepted: auto, cpu, cuda")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device, stored: torch.dtype | None) -> torch.dtype:
    """Compute dtype called `name`: auto, float32, bfloat16 or float16.

    Args:
        name: value of the setting. auto is float32 on a CPU, where half precision is slow, and on CUDA `stored` if it
            is a half precision, else bfloat16.
        device: device of the model.
        stored: dtype of the checkpoint's weights; None where its config names none.
    """
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cpu":
        return torch.float32
    return stored if stored in (torch.float16, torch.bfloat16) else torch.bfloat16


def for_inference(module: _Module, device: torch.device, dtype: torch.dtype) -> _Module:
    """`module` itself, on `device`, in `dtype` and without gradients."""
    return module.to(device=device, dtype=dtype).eval().requires_grad_(False)


def num_parameters(*modules: nn.Module) -> int:
    """Number of parameters of all modules together."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def set_threads(num_threads: int, num_model_parameters: int) -> None:
    """Sets the number of threads of a forward in torch.

    Args:
        num_threads: threads of the setting; 0 for as many as the model can use (`model_threads`).
        num_model_parameters: number of parameters of the model.
    """
    cores = available_cores()
    threads = num_threads or model_threads(num_model_parameters, cores)
    torch.set_num_threads(threads)
    log.info("threads of a forward: %d (cores: %d, parameters: %d)", threads, cores, num_model_parameters)
