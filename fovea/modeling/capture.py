"""Capture of a function of tensors, and its replay into the same memory.

A captured function reads and writes tensors that stay where they are. `CudaCapture` records its kernels as a CUDA
graph, so that a replay launches all of them at once. `StandInCapture` runs the function again instead. It needs no GPU,
and everything around a capture can be tested with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import torch
from torch import Tensor

__all__ = ["Capture", "Captured", "Compute", "CudaCapture", "StandInCapture", "agrees"]

Compute: TypeAlias = Callable[[], tuple[Tensor, ...]]

_WARM_UP_RUNS: Final = 2
_TOLERANCE_HALF: Final = 1e-2
_TOLERANCE_FLOAT32: Final = 1e-5


class Captured(Protocol):
    """A captured function. Replays must not overlap, and all run on one stream."""

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
        # One stream for all captures, because CUDA's libraries keep a workspace for each stream.
        self._stream = torch.cuda.Stream(device)
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._reserved_before: int | None = None

    def __call__(self, compute: Compute) -> Captured:
        if self._reserved_before is None:
            torch.cuda.empty_cache()
            self._reserved_before = torch.cuda.memory_reserved(self._device)
        # In their first calls libraries allocate workspaces and choose algorithms, which must not be captured.
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP_RUNS):
                compute()
        current.wait_stream(self._stream)
        # Kept, because the allocator refers to every graph of the pool, failed and rejected ones included.
        graph = torch.cuda.CUDAGraph()
        self._graphs.append(graph)
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                outputs = compute()
        except Exception:
            self._leave_pool()
            raise
        finally:
            torch.cuda.set_stream(current)  # a capture that fails may leave its own stream behind
        return _CudaGraph(graph, outputs)

    def _leave_pool(self) -> None:
        """Closes the pool that a failed capture has left open, and begins a new one."""
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        with contextlib.suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(index, self._pool)
        self._pool = torch.cuda.graph_pool_handle()

    @property
    def nbytes(self) -> int:
        if self._reserved_before is None:
            return 0
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


def agrees(got: Sequence[Tensor], want: Sequence[Tensor]) -> bool:
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
