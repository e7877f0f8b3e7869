"""Capture of many functions at start, within limits of number and time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from fovea.modeling.capture import Capture
from fovea.telemetry import FailureKind, count_failure

__all__ = ["CaptureResult", "capture_all"]

log = logging.getLogger(__name__)


@dataclass
class CaptureResult:
    """What was captured.

    Attributes:
        num_graphs: Graphs that serve.
        left_out: Names of the functions that have no graph.
    """

    num_graphs: int = 0
    left_out: list[str] = field(default_factory=list)


def capture_all(
    functions: Iterable[tuple[str, Callable[[Capture], bool]]], capture: Capture, *, max_graphs: int, max_seconds: float
) -> CaptureResult:
    """Captures functions in order until `max_graphs` are captured or `max_seconds` have passed.

    A function whose replay is wrong is left out and counted. A capture that fails is counted as well. It ends the
    round, because later ones may fail with it. A warning names all functions without a graph.

    Args:
        functions: Name of each function, and a function that captures it and returns whether its replay is right.
        capture: Way to capture.
        max_graphs: Most graphs.
        max_seconds: Seconds after which no further capture begins.
    """
    start = time.monotonic()
    done, has_failed = CaptureResult(), False
    for name, add in functions:
        if has_failed or done.num_graphs >= max_graphs or time.monotonic() - start > max_seconds:
            done.left_out.append(name)
            continue
        try:
            is_right = add(capture)
        except Exception:  # the service works without graphs
            log.warning("the capture of %s failed, so nothing more is captured", name, exc_info=True)
            is_right, has_failed = False, True
        if is_right:
            done.num_graphs += 1
        else:
            done.left_out.append(name)
            count_failure(FailureKind.CUDA_GRAPH)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # what the warm-up runs have left
    if done.left_out:
        log.warning("computed without a graph: %s", ", ".join(done.left_out))
    seconds = time.monotonic() - start
    log.info("%d graphs take %.0f MiB, captured in %.1f s", done.num_graphs, capture.nbytes / 2**20, seconds)
    return done
