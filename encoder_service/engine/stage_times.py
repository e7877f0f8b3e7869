"""Times of the stages of a batch on its device."""

from __future__ import annotations

import time

import torch

__all__ = ["StageTimes"]


class StageTimes:
    """Clock of consecutive stages, which begin at construction.

    On a GPU the stages are measured there, since their launches return before they have run.

    Args:
        device: Device on which the stages run.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._marks: list[float | torch.cuda.Event] = []
        self._ends: dict[str, int] = {}
        self._mark()

    def end(self, stage: str) -> None:
        """Ends a stage; the next one begins."""
        self._mark()
        self._ends[stage] = len(self._marks) - 1

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage, once all of them have run."""
        return {stage: self._between(self._marks[i - 1], self._marks[i]) for stage, i in self._ends.items()}

    def _mark(self) -> None:
        if not self._is_cuda:
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    @staticmethod
    def _between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
        if isinstance(start, torch.cuda.Event):
            assert isinstance(end, torch.cuda.Event), "all marks are of one kind"
            end.synchronize()
            return float(start.elapsed_time(end)) / 1000
        assert not isinstance(end, torch.cuda.Event), "all marks are of one kind"
        return end - start
