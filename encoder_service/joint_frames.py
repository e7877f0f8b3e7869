"""All frames of a video as one part, so that a pruner weighs them against each other."""

from __future__ import annotations

import dataclasses

import torch

from encoder_service.pruners.base import TowerFeatures
from encoder_service.visual import MediaFeatures

__all__ = ["join_frames"]


def join_frames(visual: MediaFeatures) -> MediaFeatures:
    """A video whose frames stand below each other as one tall picture.

    Patches keep their numbers. Of the rows that a frame has once (CLS) the joint picture has their mean. Saliency is as
    each frame's own CLS gave it: a frame whose attention is peaked keeps more than one where it is spread.

    Raises:
        ValueError: The tower was pruned inside, frame by frame.
    """
    parts = visual.parts
    if any(part.kept_in_tower is not None for part in parts):
        raise ValueError("frames that were pruned inside the tower cannot be joined")
    grid = (sum(part.grid[0] for part in parts), parts[0].grid[1])
    joint = dataclasses.replace(TowerFeatures.concatenated(parts), grid=grid)
    return dataclasses.replace(visual, parts=(joint,), places=(torch.cat(visual.places),))
