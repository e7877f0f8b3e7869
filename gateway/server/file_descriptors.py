"""Limit of file descriptors of the process."""

from __future__ import annotations

import resource
from typing import Final

__all__ = ["TooFewFileDescriptors", "raise_file_limit"]

_OTHER_FILES: Final = 512
"""File descriptors for everything but connections of clients: uploads above 1 MB (at most 256 in memory limits),
fetched media, Redis, both services, worker processes, libraries."""


class TooFewFileDescriptors(ValueError):
    """The process may not open enough files for --max-connections."""


def raise_file_limit(max_connections: int) -> None:
    """Raises the soft limit of file descriptors to the hard one, and checks that it suffices.

    Args:
        max_connections: Most connections of clients.

    Raises:
        TooFewFileDescriptors: The limit is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # a system may have a lower maximum than its hard limit
            hard = soft
    most = hard - _OTHER_FILES
    if hard != resource.RLIM_INFINITY and most < max_connections:
        raise TooFewFileDescriptors(
            f"--max-connections (GATEWAY_MAX_CONNECTIONS): {max_connections} connections and {_OTHER_FILES} other files"
            f" do not fit into the limit of {hard} file descriptors; up to {max(most, 0)} do, or raise the limit"
            " (ulimit -Hn, LimitNOFILE= of systemd)"
        )
