"""Video-LLaVA (arXiv 2311.10122): a tower for pictures and one for the frames of videos, both of CLIP's kind.

As in transformers, the video tower reads each frame like a picture, without attention over time. Of a video the
language model reads CLS and patches of every frame (1 + 256 rows), of a picture the patches alone. A pruned video has
no CLS rows: scores come from them, and the budget goes to patches.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import torch

from encoder_service.models.base import LoadOptions
from encoder_service.models.clip_encoder import ClipEncoder
from encoder_service.models.clip_vision import ClipVisionTower
from encoder_service.models.frames import FrameProcessor
from encoder_service.models.media import SquareMedia
from encoder_service.models.preprocessing import ImageProcessor
from encoder_service.pruners.base import TowerFeatures
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import CLS_HIDDEN, TowerOutput
from encoder_service.visual import MediaFeatures, PatchLayout, TowerInputs

__all__ = ["VideoLlavaEncoder"]


class VideoLlavaEncoder(ClipEncoder):
    """See `EncoderModel`.

    The text tower is LanguageBind's, which was frozen while its towers were bound to it and is the same in all its
    checkpoints; the projection is that of pictures, since frames are read like pictures.

    Raises:
        CheckpointError: See `ClipEncoder`, `ImageProcessor` and `FrameProcessor`.
    """

    family = "video_llava"
    text_tower_types = ("clip", "LanguageBindImage", "LanguageBindVideo")
    tower_name = "image_tower"
    max_videos = 4

    def __init__(self, checkpoint: Path, options: LoadOptions) -> None:
        super().__init__(
            checkpoint,
            options,
            lambda size, grid: SquareMedia(ImageProcessor(checkpoint, size), grid, FrameProcessor(checkpoint, size)),
        )
        self.video_tower = self._load_another_tower(checkpoint, options, "video_tower")
        self.grid: tuple[int, int] | None = self.vision_tower.grid

    def encode(
        self, inputs: Sequence[TowerInputs], outputs: Set[TowerOutput], in_tower: InTowerPruner | None = None
    ) -> list[MediaFeatures]:
        pictures = self._through(
            self.vision_tower, [one for one in inputs if not one.layout.is_video], outputs, in_tower
        )
        # The CLS rows that the language model reads where nothing is pruned.
        of_frames = outputs if in_tower is not None else {*outputs, CLS_HIDDEN}
        videos = self._through(self.video_tower, [one for one in inputs if one.layout.is_video], of_frames, in_tower)
        return [next(videos if one.layout.is_video else pictures) for one in inputs]

    def _through(
        self,
        tower: ClipVisionTower,
        inputs: Sequence[TowerInputs],
        outputs: Set[TowerOutput],
        in_tower: InTowerPruner | None,
    ) -> Iterator[MediaFeatures]:
        if not inputs:
            return
        pixel_values = torch.cat([one.pixel_values for one in inputs])
        features = iter(tower(pixel_values.to(self.device, self.dtype), outputs, in_tower))
        for one in inputs:
            parts = tuple(itertools.islice(features, one.layout.num_inputs))
            yield MediaFeatures(one.layout, parts, one.layout.places(), _cls_rows(one.layout, parts))


def _cls_rows(layout: PatchLayout, parts: Sequence[TowerFeatures]) -> torch.Tensor | None:
    if not layout.cls_per_input or CLS_HIDDEN not in parts[0].outputs:
        return None
    return torch.stack([part.outputs[CLS_HIDDEN] for part in parts])
