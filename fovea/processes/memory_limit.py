"""Limit on the memory by which this process may grow while it reads a file of a stranger."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["growth_limited"]

_DATA_SIZE: Final = re.compile(r"^VmData:\s+(\d+) kB$", re.MULTILINE)


@contextlib.contextmanager
def growth_limited(num_bytes: int) -> Iterator[None]:
    """Context in which this process may allocate that many bytes more. Has no effect outside Linux.

    The kernel refuses an allocation beyond it: Python raises MemoryError, and libraries report an error of theirs. All
    threads of the process share the limit.

    Args:
        num_bytes: bytes of private memory beside what the process has.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    hard = before[1]
    limit = _data_bytes() + num_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    """Private memory of this process as the kernel counts it for the limit, in bytes."""
    match = _DATA_SIZE.search(Path("/proc/self/status").read_text(encoding="utf-8"))
    assert match is not None
    return 1024 * int(match[1])
