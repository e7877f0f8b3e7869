"""Gauges of the memory of a GPU."""

from __future__ import annotations

import torch
from prometheus_client import Gauge

__all__ = ["DEVICE_MEMORY_BYTES", "report_device_memory"]

DEVICE_MEMORY_BYTES = Gauge(
    "fovea_device_memory_bytes",
    "GPU memory: of tensors (allocated), held by this process (reserved), free, and in all (total).",
    ["kind"],
)


def report_device_memory(device: torch.device) -> None:
    """Makes the gauges read the memory of a GPU at each scrape. A CPU has none of them.

    `process_resident_memory_bytes` of prometheus_client has the memory of the process.
    """
    if device.type != "cuda":
        return
    DEVICE_MEMORY_BYTES.labels("allocated").set_function(lambda: torch.cuda.memory_allocated(device))
    DEVICE_MEMORY_BYTES.labels("reserved").set_function(lambda: torch.cuda.memory_reserved(device))
    DEVICE_MEMORY_BYTES.labels("free").set_function(lambda: torch.cuda.mem_get_info(device)[0])
    DEVICE_MEMORY_BYTES.labels("total").set_function(lambda: torch.cuda.mem_get_info(device)[1])
