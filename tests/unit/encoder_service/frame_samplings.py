"""Samplings of the frames of a video file, for tests that decode without a model."""

from __future__ import annotations

from dataclasses import dataclass, field

from encoder_service.models.frame_sampling import first_of_intervals

__all__ = ["EvenSampling"]


@dataclass
class EvenSampling:
    """`count` frames, the first of each of equal intervals.

    Attributes:
        count: Number of frames of a file whose request names none.
        asked: Arguments of the calls of `num_frames`.
    """

    count: int
    asked: list[tuple[int, float]] = field(default_factory=list)

    def num_frames(self, total_frames: int, seconds: float) -> int:
        self.asked.append((total_frames, seconds))
        return self.count

    def sample_indices(self, total_frames: int, num_frames: int) -> list[int]:
        return first_of_intervals(total_frames, num_frames)
