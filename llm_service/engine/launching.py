"""How an engine launches work on its device. A GPU computes while the thread that launched the work goes on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fovea.modeling.capture import Capture, CudaCapture

__all__ = ["Launching", "launching_on"]


@dataclass(frozen=True, kw_only=True)
class Launching:
    """Way to launch forward passes. The defaults suit a CPU.

    Attributes:
        few_sizes: Whether decoding steps have few sizes; see `decode_buckets`.
        defers_reads: Whether tokens are read while the device computes the next ones.
        capture: Way to capture CUDA graphs; None for no graphs.
    """

    few_sizes: bool = False
    defers_reads: bool = False
    capture: Capture | None = None


def launching_on(device: torch.device, *, graphs: bool) -> Launching:
    """Way to launch on a device.

    Args:
        device: Device of the model.
        graphs: Whether to capture CUDA graphs where the device has them.
    """
    if device.type == "cpu":
        return Launching()
    return Launching(few_sizes=True, defers_reads=True, capture=CudaCapture(device) if graphs else None)
