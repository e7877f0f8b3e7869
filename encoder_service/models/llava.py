"""LLaVA-1.5: the centre square of an image is one tower input."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path

from encoder_service.models.base import LoadOptions
from encoder_service.models.clip_encoder import ClipEncoder
from encoder_service.models.media import SquareMedia
from encoder_service.models.media_features import MediaFeatures, TowerInputs, split_batch
from encoder_service.models.preprocessing import ImageProcessor
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import TowerOutput

__all__ = ["LlavaEncoder"]


class LlavaEncoder(ClipEncoder):
    """See `EncoderModel`.

    Raises:
        CheckpointError: See `ClipEncoder` and `ImageProcessor`.
    """

    family = "llava"

    def __init__(self, checkpoint: Path, options: LoadOptions) -> None:
        super().__init__(
            checkpoint,
            options,
            lambda size, grid: SquareMedia(ImageProcessor(checkpoint, size), grid, reduces_jpeg=options.reduces_jpeg),
        )
        self.grid = self.vision_tower.grid

    def encode(
        self, inputs: Sequence[TowerInputs], outputs: Set[TowerOutput], in_tower: InTowerPruner | None = None
    ) -> list[MediaFeatures]:
        features = self.vision_tower(self.pixel_values(inputs), outputs, in_tower)
        return split_batch(features, [image.layout for image in inputs])
