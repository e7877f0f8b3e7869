"""Qwen2.5-VL: the vision tower with its merger, and the input embeddings of the language model.

The rest of the language model is not read. Visual tokens are as wide as the language model, and a pruner's patch is a
visual token, that is a group of 2 x 2 patches of the tower.

There is no text tower and no CLS. A question is read as the language model's input embeddings, since the merger's
output lies in their space. That is our interpretation of DeSAP for this family: the paper does not describe it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, Final

import torch
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLVisionRotaryEmbedding,
)

from encoder_service.models.base import LoadOptions
from encoder_service.models.embedding_rows import EmbeddingRows
from encoder_service.models.fingerprint import settings_fingerprint
from encoder_service.models.media import QwenMedia
from encoder_service.models.media_features import MediaFeatures, TowerInputs, split_batch
from encoder_service.models.pixel_normalizer import PixelNormalizer
from encoder_service.models.qwen_pixels import QwenPixels
from encoder_service.models.qwen_vision import QWEN_OUTPUTS, QwenVisionTower
from encoder_service.pruners.base import TextFeatures
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import TowerOutput
from fovea import checkpoints
from fovea.modeling.compute import for_inference, num_parameters, resolve_device, resolve_dtype
from fovea.modeling.configs import read_family_config
from fovea.modeling.errors import CheckpointError
from fovea.modeling.weights import assign_weights, read_tensors

__all__ = ["QwenEncoder"]

# The hub's layout, and that of transformers 5 in memory.
_VISION_TOWER: Final = {"visual.": "", "model.visual.": ""}


class QwenEncoder:
    """See `EncoderModel`.

    Args:
        checkpoint: Directory of the checkpoint.
        options: How to load it; `text_tower` must be empty.

    Raises:
        CheckpointError: Tensors are missing or do not fit the config, or a text tower is given.
    """

    family = "qwen2_5_vl"
    config_class: type[Any] = Qwen2_5_VLConfig
    vision_model_class: type[Any] = Qwen2_5_VisionTransformerPretrainedModel
    rotary_class: type[Any] = Qwen2_5_VLVisionRotaryEmbedding
    tower_class: type[QwenVisionTower] = QwenVisionTower
    pixels_class: type[QwenPixels] = QwenPixels
    grid: tuple[int, int] | None = None
    max_images = 8
    max_videos = 4
    max_text_ids = 8192  # an embedding table has no limit of positions
    min_text_ids = 1
    reads_language_model_ids = True
    outputs = QWEN_OUTPUTS
    num_planes = 0
    prunes_in_tower = False

    def __init__(self, checkpoint: Path, options: LoadOptions) -> None:
        if options.text_tower:
            raise CheckpointError(
                f"family {self.family} reads questions with the language model's own embeddings; leave --text-tower out"
            )
        if options.compile:
            raise CheckpointError(f"family {self.family} does not compile its tower; leave --compile out")
        vision_config = read_family_config(self.config_class, checkpoint).vision_config
        self._check(vision_config)
        self.device = resolve_device(options.device)
        tower = self._load_tower(checkpoint, vision_config, options.attn_implementation)
        self.dtype = resolve_dtype(options.dtype, self.device, tower.patch_embed.proj.weight.dtype)
        self.vision_tower = for_inference(self.tower_class(tower), self.device, self.dtype)
        # This table is in no checkpoint. It stays float32 in any dtype, so it is set after `for_inference`.
        tower.rotary_pos_emb = self.rotary_class(vision_config).to(self.device)
        self.media = QwenMedia(
            self.pixels_class(checkpoint, vision_config), int(vision_config.temporal_patch_size), options.reduces_jpeg
        )
        row_shape = (3 * vision_config.temporal_patch_size * vision_config.patch_size**2,)
        self.pixel_values = PixelNormalizer(self.media.pixel_tables(), row_shape, self.device, self.dtype)
        self._embeddings = EmbeddingRows(checkpoint, vision_config.out_hidden_size, self.device, self.dtype)

        self.num_parameters = num_parameters(self.vision_tower)
        self.hidden_size = int(vision_config.out_hidden_size)
        self.text_vocab_size = self._embeddings.vocab_size
        self.fingerprint = self.text_tower_fingerprint = checkpoints.fingerprint(checkpoint)
        self.settings_fingerprint = settings_fingerprint(options, self.device, self.dtype, self.media.describe())

    def encode(
        self, inputs: Sequence[TowerInputs], outputs: Set[TowerOutput], in_tower: InTowerPruner | None = None
    ) -> list[MediaFeatures]:
        if in_tower is not None:
            raise ValueError(f"the tower of family {self.family} cannot be pruned inside")
        # Media with equal grids follow one another, so that they are one batch after the tower.
        by_grid = sorted(inputs, key=lambda media: (media.layout.rows, media.layout.columns))
        patches = self.pixel_values(by_grid)
        features: dict[int, MediaFeatures] = {}
        runs = [
            (grid, list(run))
            for grid, run in itertools.groupby(by_grid, lambda media: (media.layout.rows, media.layout.columns))
        ]
        grids = [(grid, sum(media.layout.num_inputs for media in run)) for grid, run in runs]
        for (_, run), batch in zip(runs, self.vision_tower(patches, grids, outputs), strict=True):
            split = split_batch(batch, [media.layout for media in run])
            features |= {id(media): of_media for media, of_media in zip(run, split, strict=True)}
        return [features[id(media)] for media in inputs]

    def encode_texts(self, texts: Sequence[Sequence[int]], *, eos_attention: bool = False) -> TextFeatures:
        if eos_attention:
            raise ValueError(f"family {self.family} has no text tower whose attention could be read")
        return self._embeddings.text_features(texts)

    def _check(self, vision_config: Any) -> None:
        """Checks a config.

        Raises:
            CheckpointError: The tower cannot be read off as pruners need it.
        """
        if vision_config.depth - 1 not in vision_config.fullatt_block_indexes:
            raise CheckpointError(
                f"the last of {vision_config.depth} vision layers attends to windows only; family {self.family} reads"
                " saliency off a last layer with full attention; fullatt_block_indexes are"
                f" {list(vision_config.fullatt_block_indexes)}"
            )

    def _load_tower(self, checkpoint: Path, vision_config: Any, attn_implementation: str) -> Any:
        """Vision tower with merger, without the table of rotary frequencies."""
        with torch.device("meta"):
            tower = self.vision_model_class._from_config(vision_config, attn_implementation=attn_implementation)
        tower.rotary_pos_emb = None
        assign_weights(tower, read_tensors(checkpoint, _VISION_TOWER, reads_bin=True), what="vision tower")
        return tower
