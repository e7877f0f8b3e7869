"""Video-LLaVA (arXiv 2311.10122): a CLIP tower for images and another for the frames of videos.

As in transformers, the video tower reads each frame like an image, without attention over time. Of a video the language
model reads CLS and patches of every frame (1 + 256 tokens), of an image only the patches. A pruned video has no CLS
tokens: they only score patches, and the budget goes to patches.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path

from encoder_service.models.base import LoadOptions
from encoder_service.models.clip_encoder import ClipEncoder
from encoder_service.models.clip_vision import ClipVisionTower
from encoder_service.models.frames import FrameProcessor
from encoder_service.models.media import SquareMedia
from encoder_service.models.media_features import MediaFeatures, TowerInputs, split_batch
from encoder_service.models.preprocessing import ImageProcessor
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import CLS_HIDDEN, TowerOutput

__all__ = ["VideoLlavaEncoder"]


class VideoLlavaEncoder(ClipEncoder):
    """See `EncoderModel`.

    The text tower is LanguageBind's, which was frozen while its towers were bound to it and is the same in all its
    checkpoints; the projection is that of images, since frames are read like images.

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
            lambda size, grid: SquareMedia(
                ImageProcessor(checkpoint, size), grid, FrameProcessor(checkpoint, size), options.reduces_jpeg
            ),
        )
        self.video_tower = self._load_another_tower(checkpoint, options, "video_tower")
        self.grid = self.vision_tower.grid

    def encode(
        self, inputs: Sequence[TowerInputs], outputs: Set[TowerOutput], in_tower: InTowerPruner | None = None
    ) -> list[MediaFeatures]:
        images, videos = (
            [media for media in inputs if media.layout.is_video == is_video] for is_video in (False, True)
        )
        image_features = iter(self._run_tower(self.vision_tower, images, outputs, in_tower))
        # The language model reads the CLS tokens of an unpruned video.
        frame_outputs = outputs if in_tower is not None else {*outputs, CLS_HIDDEN}
        video_features = iter(self._run_tower(self.video_tower, videos, frame_outputs, in_tower))
        return [next(video_features if media.layout.is_video else image_features) for media in inputs]

    def _run_tower(
        self,
        tower: ClipVisionTower,
        inputs: Sequence[TowerInputs],
        outputs: Set[TowerOutput],
        in_tower: InTowerPruner | None,
    ) -> list[MediaFeatures]:
        if not inputs:
            return []
        features = tower(self.pixel_values(inputs), outputs, in_tower)
        return split_batch(features, [media.layout for media in inputs])
