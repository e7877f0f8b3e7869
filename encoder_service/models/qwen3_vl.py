"""Qwen3-VL: the vision tower with its mergers, and the input embeddings of the language model.

As `QwenEncoder`, with patches of 16 pixels and DeepStack planes. DeSAP's paper describes no model of Qwen. We interpret
it for this family as for Qwen2.5-VL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel, Qwen3VLVisionRotaryEmbedding

from encoder_service.models.base import LoadOptions
from encoder_service.models.qwen2_5_vl import QwenEncoder
from encoder_service.models.qwen3_vision import Qwen3VisionTower
from encoder_service.models.qwen_pixels import Qwen3Pixels
from fovea.modeling.errors import CheckpointError

__all__ = ["Qwen3Encoder"]


class Qwen3Encoder(QwenEncoder):
    """See `EncoderModel` and `QwenEncoder`."""

    family = "qwen3_vl"
    config_class = Qwen3VLConfig
    vision_model_class = Qwen3VLVisionModel
    rotary_class = Qwen3VLVisionRotaryEmbedding
    tower_class = Qwen3VisionTower
    pixels_class = Qwen3Pixels

    def __init__(self, checkpoint: Path, options: LoadOptions) -> None:
        super().__init__(checkpoint, options)
        self.num_planes = len(self.vision_tower.vision_model.deepstack_visual_indexes)

    def _check(self, vision_config: Any) -> None:
        layers = list(vision_config.deepstack_visual_indexes)
        if layers != sorted(set(layers)) or (layers and not 0 <= layers[0] <= layers[-1] < vision_config.depth):
            raise CheckpointError(
                f"deepstack_visual_indexes {layers} are not ascending layers of a tower of {vision_config.depth}"
            )
