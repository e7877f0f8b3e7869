"""Kernels that a batch really launches on a CUDA device, and how often the CPU waits for the device."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

__all__ = ["measure_launches"]


def measure_launches(run: Callable[[], object]) -> dict[str, Any]:
    """Kernels, copies and waits of `run` on the CUDA device, after one run that is not counted.

    Returns:
        `kernels`: kernels that ran, those of CUDA graphs included. `copies`: memory copies and fills. `waits`: calls
        in which the CPU waits for the device. `busy_ms`: time in which the device computed or copied.
    """
    run()
    torch.cuda.synchronize()
    waits = _waits(run)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    events = [event for event in profiled.events() or () if event.device_type == DeviceType.CUDA]
    copies = sum(event.name.startswith(("Memcpy", "Memset")) for event in events)
    busy_us = sum(event.device_time for event in events)
    return {
        "kernels": len(events) - copies,
        "copies": copies,
        "waits": waits,
        "busy_ms": round(busy_us / 1e3, 3),
    }


def _waits(run: Callable[[], object]) -> int:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)
