"""LLaVA-NeXT: the tower inputs of an image are its base tile and the tiles of a large version."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path

from encoder_service.models.anyres import TileCutter
from encoder_service.models.base import LoadOptions
from encoder_service.models.clip_encoder import ClipEncoder
from encoder_service.models.media import TiledMedia
from encoder_service.models.media_features import MediaFeatures, TowerInputs, split_batch
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import TowerOutput
from fovea.modeling.configs import read_config

__all__ = ["LlavaNextEncoder"]


class LlavaNextEncoder(ClipEncoder):
    """See `EncoderModel`.

    Raises:
        CheckpointError: See `ClipEncoder` and `TileCutter`.
    """

    family = "llava_next"
    grid = None

    def __init__(self, checkpoint: Path, options: LoadOptions) -> None:
        canvases = read_config(checkpoint).get("image_grid_pinpoints")
        super().__init__(
            checkpoint,
            options,
            lambda size, grid: TiledMedia(TileCutter(checkpoint, canvases, size), grid, options.reduces_jpeg),
        )

    def encode(
        self, inputs: Sequence[TowerInputs], outputs: Set[TowerOutput], in_tower: InTowerPruner | None = None
    ) -> list[MediaFeatures]:
        features = self.vision_tower(self.pixel_values(inputs), outputs, in_tower)
        return split_batch(features, [image.layout for image in inputs])
