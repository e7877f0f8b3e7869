"""Peak memory of a call: bytes that it allocates beyond what was allocated before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch.profiler import profile

__all__ = ["HOW_MEASURED", "peak_bytes"]

HOW_MEASURED: Final = {
    "cpu": "the allocations and releases of torch's allocator, which its profiler records",
    "cuda": "torch.cuda.max_memory_allocated",
}
"""How the peak is measured, by type of device."""


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The largest number of bytes that tensors made by `run` take at one time, on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(profile_memory=True) as profiled:
        run()
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    changes = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        now += change.nbytes()
        peak = max(peak, now)
    return peak
