"""Capture of many functions at start, within limits of number and time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fovea.modeling.capture import Capture
from fovea.telemetry import FailureKind, count_failure

__all__ = ["CaptureRound", "capture_all"]

log = logging.getLogger(__name__)


@dataclass
class CaptureRound:
    """What was captured.

    Attributes:
        num_graphs: Graphs that serve.
        left_out: Names of the functions that have no graph.
    """

    num_graphs: int = 0
    left_out: list[str] = field(default_factory=list)


def capture_all(
    functions: Iterable[tuple[str, Callable[[Capture], bool]]], capture: Capture, *, max_graphs: int, max_seconds: float
) -> CaptureRound:
    """Captures functions in order until `max_graphs` are captured or `max_seconds` have passed.

    A function that cannot be captured, or whose replay is wrong, is left out and counted. One warning names all that
    are left out.

    Args:
        functions: Name of each function, and what captures it and says whether its replay is right.
        capture: Way to capture.
        max_graphs: Most graphs.
        max_seconds: Seconds after which no further capture begins.
    """
    start = time.monotonic()
    done = CaptureRound()
    for name, add in functions:
        if done.num_graphs >= max_graphs or time.monotonic() - start > max_seconds:
            done.left_out.append(name)
        elif _added(name, add, capture):
            done.num_graphs += 1
        else:
            done.left_out.append(name)
            count_failure(FailureKind.CUDA_GRAPH)
    if done.left_out:
        log.warning("computed without a graph: %s", ", ".join(done.left_out))
    seconds = time.monotonic() - start
    log.info("%d graphs take %.0f MiB, captured in %.1f s", done.num_graphs, capture.nbytes / 2**20, seconds)
    return done


def _added(name: str, add: Callable[[Capture], bool], capture: Capture) -> bool:
    try:
        return add(capture)
    except Exception:  # the service works without the graph
        log.debug("no graph of %s", name, exc_info=True)
        return False
