"""Qwen2.5-VL: the vision tower with its merger, and the rows of the language model's embedding table.

Never the language model itself. What is shipped is as wide as the language model, and a pruner's patch is a visual
token, that is a whole group of 2 x 2 patches.

There is no text tower and no CLS. A question is read as rows of the table that the language model embeds words with,
since the merger's output lives among them; that is our interpretation of DeSAP for this family, whose authors do not
say what they took.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLVisionRotaryEmbedding,
)

from encoder_service.models.base import LoadOptions
from encoder_service.models.fingerprint import settings_fingerprint
from encoder_service.models.media import QwenMedia
from encoder_service.models.qwen_pixels import QwenPixels
from encoder_service.models.qwen_vision import QWEN_OUTPUTS, QwenVisionTower
from encoder_service.pruners.base import TextFeatures
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import TowerOutput
from encoder_service.visual import MediaFeatures, TowerInputs
from fovea import checkpoints
from fovea.modeling.compute import for_inference, num_parameters, resolve_device, resolve_dtype
from fovea.modeling.configs import config_part, read_config
from fovea.modeling.errors import CheckpointError
from fovea.modeling.weights import assign_weights, read_tensors

__all__ = ["QwenEncoder"]

# The hub's layout, and that of transformers 5 in memory.
_VISION_TOWER: Final = {"visual.": "", "model.visual.": ""}
_EMBEDDINGS: Final = {
    "model.embed_tokens.weight": "weight",
    "model.language_model.embed_tokens.weight": "weight",
    "language_model.model.embed_tokens.weight": "weight",
}


class QwenEncoder:
    """See `EncoderModel`.

    Args:
        checkpoint: Directory of the checkpoint.
        options: How to load it; `text_tower` must be empty.

    Raises:
        CheckpointError: Tensors are missing or do not fit the config; a text tower is given.
    """

    family = "qwen2_5_vl"
    grid: tuple[int, int] | None = None
    max_images = 8
    max_videos = 4
    max_text_ids = 8192  # a table has no positions to run out of
    min_text_ids = 1
    reads_language_model_ids = True
    outputs = QWEN_OUTPUTS
    prunes_in_tower = False

    def __init__(self, checkpoint: Path, options: LoadOptions) -> None:
        if options.text_tower:
            raise CheckpointError(
                "family qwen2_5_vl reads questions with the language model's own embeddings; leave --text-tower out"
            )
        vision_config = _vision_config(read_config(checkpoint))
        self.device = resolve_device(options.device)
        visual = _visual(checkpoint, vision_config, options.attn_implementation)
        self.dtype = resolve_dtype(options.dtype, self.device, visual.patch_embed.proj.weight.dtype)
        self.vision_tower = for_inference(QwenVisionTower(visual), self.device, self.dtype)
        # No checkpoint holds this table. It stays float32 in any compute dtype, so it comes after `for_inference`.
        visual.rotary_pos_emb = Qwen2_5_VLVisionRotaryEmbedding(vision_config).to(self.device)
        self.media = QwenMedia(QwenPixels(checkpoint, vision_config), int(vision_config.temporal_patch_size))
        self._embeddings = _embeddings(checkpoint, vision_config.out_hidden_size).to(self.device)

        self.num_parameters = num_parameters(self.vision_tower)
        self.hidden_size = int(vision_config.out_hidden_size)
        self.text_vocab_size = len(self._embeddings)
        self.fingerprint = self.text_tower_fingerprint = checkpoints.fingerprint(checkpoint)
        self.settings_fingerprint = settings_fingerprint(options, self.device, self.dtype, self.media.describe())

    def encode(
        self, inputs: Sequence[TowerInputs], outputs: Set[TowerOutput], in_tower: InTowerPruner | None = None
    ) -> list[MediaFeatures]:
        if in_tower is not None:
            raise ValueError("the tower of family qwen2_5_vl cannot be pruned inside")
        patches = torch.cat([one.pixel_values.flatten(0, 1) for one in inputs]).to(self.device, self.dtype)
        layouts = [one.layout for one in inputs]
        grids = [(layout.rows, layout.columns) for layout in layouts for _ in range(layout.num_inputs)]
        parts = iter(self.vision_tower(patches, grids, outputs))
        return [
            MediaFeatures(
                layout,
                tuple(next(parts) for _ in range(layout.num_inputs)),
                torch.arange(layout.num_patches).split(layout.rows * layout.columns),
            )
            for layout in layouts
        ]

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[Sequence[int]], *, eos_attention: bool = False) -> list[TextFeatures]:
        if eos_attention:
            raise ValueError("family qwen2_5_vl has no text tower whose attention could be read")
        return [self._encode_text(ids) for ids in texts]

    def _encode_text(self, ids: Sequence[int]) -> TextFeatures:
        rows = self._embeddings[torch.tensor(ids, device=self.device)].to(self.dtype)
        # No end-of-text row speaks for the whole: the mean does.
        return TextFeatures(rows, rows.mean(dim=0, keepdim=True), torch.ones(len(ids), dtype=torch.bool))


def _vision_config(config: dict[str, Any]) -> Any:
    vision = config_part(Qwen2_5_VLConfig, config, what="checkpoint").vision_config
    if vision.depth - 1 not in vision.fullatt_block_indexes:
        raise CheckpointError(
            f"the last of {vision.depth} vision layers looks into windows only; family qwen2_5_vl reads saliency off"
            f" a last layer that sees the whole picture, fullatt_block_indexes are {list(vision.fullatt_block_indexes)}"
        )
    return vision


def _visual(checkpoint: Path, vision_config: Any, attn_implementation: str) -> Any:
    """Tower and merger, yet without the table of rotary frequencies."""
    with torch.device("meta"):
        visual = Qwen2_5_VisionTransformerPretrainedModel._from_config(
            vision_config, attn_implementation=attn_implementation
        )
    visual.rotary_pos_emb = None
    assign_weights(visual, read_tensors(checkpoint, _VISION_TOWER), what="vision tower")
    return visual


def _embeddings(checkpoint: Path, width: int) -> Tensor:
    """[V, D], as stored."""
    tensors = read_tensors(checkpoint, _EMBEDDINGS)
    if "weight" not in tensors:
        raise CheckpointError("the checkpoint holds no embed_tokens.weight of the language model")
    table = tensors["weight"]
    if table.shape[1] != width:
        raise CheckpointError(
            f"the language model embeds words in {table.shape[1]} channels, its vision tower makes {width}"
        )
    return table
