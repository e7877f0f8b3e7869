"""Tower inputs joined into one, so that a pruner compares all patches of an image or video at once."""

from __future__ import annotations

import dataclasses

import torch

from encoder_service.media_features import MediaFeatures
from encoder_service.pruners.base import TowerFeatures

__all__ = ["join_frames", "join_tiles"]


def join_frames(video: MediaFeatures) -> MediaFeatures:
    """A video with its frames joined into one tower input, below each other.

    Patches keep their positions. Of outputs that exist once a frame (CLS) the joint input has the mean. Saliency stays
    that of each frame's own CLS: a frame with concentrated attention keeps more than one where it is spread out.

    Raises:
        ValueError: The tower was pruned inside, frame by frame.
    """
    frames = video.tower_features
    if any(frame.kept_in_tower is not None for frame in frames):
        raise ValueError("frames that were pruned inside the tower cannot be joined")
    grid = (sum(frame.grid[0] for frame in frames), frames[0].grid[1])
    joint = dataclasses.replace(TowerFeatures.concatenated(frames), grid=grid)
    return dataclasses.replace(video, tower_features=(joint,), patch_positions=(torch.cat(video.patch_positions),))


def join_tiles(image: MediaFeatures) -> MediaFeatures:
    """A tiled image with its tiles joined into one row of patches, in the order of the language model."""
    layout = image.layout
    assert layout.mosaic is not None
    by_tile = torch.cat(image.patch_positions)
    index = torch.empty(layout.num_patches, dtype=torch.int64)
    index[by_tile] = torch.arange(len(by_tile))
    in_order = torch.cat([image.patch_positions[0], layout.mosaic.flatten()])
    joint = TowerFeatures.concatenated(image.tower_features)
    return MediaFeatures(layout, (joint.take(index[in_order], joint.grid),), (in_order,))
