"""Size of a running service: memory, threads and file descriptors of its processes."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

__all__ = ["ServiceSize", "service_size"]


@dataclass(frozen=True)
class ServiceSize:
    """Size of a service with all its processes.

    Attributes:
        processes: Number of processes: the service itself and those that it has started.
        rss: Resident bytes of the service's first process, memory that it shares with others included.
        pss: Resident bytes of all processes; memory that n processes share counts to 1 / n in each.
        uss: Bytes that the end of all processes would free.
        threads: Threads of the first process.
        file_descriptors: Open file descriptors of the first process.
    """

    processes: int
    rss: int
    pss: int
    uss: int
    threads: int
    file_descriptors: int


def service_size(pid: int) -> ServiceSize:
    """Size of the service whose first process is `pid`. Needs Linux, and the right to read the process's maps."""
    first = psutil.Process(pid)
    processes = [first, *first.children(recursive=True)]
    memory = [process.memory_full_info() for process in processes]
    return ServiceSize(
        processes=len(processes),
        rss=memory[0].rss,
        pss=sum(one.pss for one in memory),
        uss=sum(one.uss for one in memory),
        threads=first.num_threads(),
        file_descriptors=first.num_fds(),
    )
