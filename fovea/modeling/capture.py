"""Capture of a function of tensors, and its replay into the same memory.

A captured function reads and writes tensors that stay where they are. `CudaCapture` records its kernels as a CUDA
graph, so that a replay launches all of them at once. `StandInCapture` runs the function again instead. It needs no GPU,
and everything around a capture can be tested with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import torch
from torch import Tensor

__all__ = ["Capture", "Captured", "Compute", "CudaCapture", "StandInCapture", "is_equal"]

Compute: TypeAlias = Callable[[], tuple[Tensor, ...]]

_WARM_UP_RUNS: Final = 2
_TOLERANCE_HALF: Final = 1e-2
_TOLERANCE_FLOAT32: Final = 1e-5


class Captured(Protocol):
    """A captured function. Calls must not overlap, and come from one stream."""

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """Static outputs: each replay writes into them."""
        ...

    def replay(self) -> None:
        """Computes the outputs from what the static inputs hold now."""
        ...


class Capture(Protocol):
    """Way to capture functions."""

    def __call__(self, compute: Compute) -> Captured:
        """Captures a function that reads static inputs, and reads no value back."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that the captures so far have reserved."""
        ...


@dataclass(frozen=True, slots=True)
class _CudaGraph:
    graph: torch.cuda.CUDAGraph
    outputs: tuple[Tensor, ...]

    def replay(self) -> None:
        self.graph.replay()


class CudaCapture:
    """Capture as CUDA graphs that share one memory pool. Their replays must not overlap.

    Args:
        device: CUDA device of all tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._reserved_before = torch.cuda.memory_reserved(device)

    def __call__(self, compute: Compute) -> Captured:
        # Libraries allocate workspaces and choose algorithms in their first calls, which a capture must not contain.
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_RUNS):
                compute()
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                outputs = compute()
        finally:
            torch.cuda.set_stream(current)  # a capture that fails may leave its own stream behind
        return _CudaGraph(graph, outputs)

    @property
    def nbytes(self) -> int:
        return max(0, torch.cuda.memory_reserved(self._device) - self._reserved_before)


@dataclass(frozen=True, slots=True)
class _StandIn:
    compute: Compute
    outputs: tuple[Tensor, ...]

    def replay(self) -> None:
        for output, computed in zip(self.outputs, self.compute(), strict=True):
            output.copy_(computed)


class StandInCapture:
    """Capture that runs the function again at each replay, into the outputs of the first run."""

    def __init__(self) -> None:
        self._nbytes = 0

    def __call__(self, compute: Compute) -> Captured:
        outputs = tuple(output.clone() for output in compute())
        self._nbytes += sum(output.nbytes for output in outputs)
        return _StandIn(compute, outputs)

    @property
    def nbytes(self) -> int:
        return self._nbytes


def is_equal(got: Sequence[Tensor], want: Sequence[Tensor]) -> bool:
    """Whether a replay is right: the same whole numbers, and floats within a relative tolerance of the largest value.

    The tolerance is 1e-2 in half precision and 1e-5 in float32.
    """
    return all(_is_close(one, other) for one, other in zip(got, want, strict=True))


def _is_close(got: Tensor, want: Tensor) -> bool:
    if not want.is_floating_point():
        return torch.equal(got, want)
    tolerance = _TOLERANCE_HALF if want.dtype in (torch.float16, torch.bfloat16) else _TOLERANCE_FLOAT32
    difference = (got.double() - want.double()).abs().max()
    return bool(difference <= tolerance * want.double().abs().max().clamp_min(torch.finfo(torch.float32).tiny))
