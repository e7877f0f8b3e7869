"""Rules by which n frames are sampled of T frames of a video file, as in transformers."""

from __future__ import annotations

import numpy as np

__all__ = ["first_of_intervals", "from_first_to_last"]


def first_of_intervals(total: int, num_frames: int) -> list[int]:
    """Indices floor(i T / n): the first frame of each of n equal intervals.

    The rule of `default_sample_indices_fn`, and of Qwen2.5-VL's processor (`torch.arange(0, T, T / n).int()`).
    """
    return [i * total // num_frames for i in range(num_frames)]


def from_first_to_last(total: int, num_frames: int) -> list[int]:
    """Indices from 0 to T - 1 in equal steps, rounded: the rule of Qwen3-VL's processor."""
    indices: list[int] = np.linspace(0, total - 1, num_frames).round().astype(int).tolist()
    return indices
