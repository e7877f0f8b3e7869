"""Qwen3-VL's vision tower, with the tower outputs that pruners require and the DeepStack planes.

As Qwen2.5-VL's, but every layer attends to the whole tower input, learned positions are interpolated to the grid, and
three mergers read the outputs of earlier layers: the DeepStack planes (arXiv 2511.21631, arXiv 2406.04334).
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import torch
from torch import Tensor
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from encoder_service.models.qwen_vision import QwenVisionTower, split_by_grid
from encoder_service.pruners.base import TowerFeatures
from encoder_service.pruners.tower_outputs import (
    JOINT_FEATURES,
    SALIENCY_FIRST,
    SALIENCY_SECOND_LAST,
    OutputKind,
    TowerOutput,
)
from fovea.modeling.transfers import to_device

__all__ = ["Qwen3VisionTower"]


class Qwen3VisionTower(QwenVisionTower):
    """V layers, the merger and P DeepStack mergers, each of which maps groups of M = 4 patches to width D.

    Outputs are those of `QwenVisionTower`, except that SALIENCY_SECOND_LAST and SALIENCY_FIRST are attention received
    in layers V-2 and 0 over the whole tower input. No output is read off a DeepStack merger.
    """

    @torch.inference_mode()
    def forward(
        self, patches: Tensor, grids: Sequence[tuple[tuple[int, int], int]], outputs: Set[TowerOutput]
    ) -> list[TowerFeatures]:
        """See `QwenVisionTower.forward`; the features have planes."""
        vision_model, merge = self.vision_model, self.vision_model.spatial_merge_size
        # On the CPU: transformers reads the sizes back.
        grid_thw = torch.tensor([(count, rows * merge, columns * merge) for (rows, columns), count in grids])
        hidden, rotary = self._embed(patches, grid_thw)
        bounds = get_vision_cu_seqlens(grid_thw)
        inputs: list[Tensor] = []
        planes: list[Tensor] = []
        for index, block in enumerate(vision_model.blocks):
            inputs.append(hidden)
            hidden = block(hidden, cu_seqlens=bounds, position_embeddings=rotary)
            if index in vision_model.deepstack_visual_indexes:
                merger = vision_model.deepstack_merger_list[len(planes)]
                planes.append(merger(hidden))
        features = vision_model.merger(hidden)

        runs = [(count, rows * columns * merge**2) for (rows, columns), count in grids]
        computed = self.outputs_of_last(inputs[-1], rotary, runs, outputs) if outputs else {}
        computed |= dict.fromkeys(outputs & {TowerOutput(OutputKind.JOINT), JOINT_FEATURES}, features)
        for output in outputs & {SALIENCY_FIRST, SALIENCY_SECOND_LAST}:
            computed[output] = self.saliency_in(output.layer, inputs[output.layer], rotary, runs)
        return split_by_grid(features, computed, grids, planes=torch.stack(planes, dim=1) if planes else None)

    def _embed(self, patches: Tensor, grid_thw: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Input [S, C] of the first layer, patches side by side with their group, and cosines and sines [S, d]."""
        vision_model = self.vision_model
        indices, weights = get_vision_interpolation_indices_and_weights(
            grid_thw,
            num_grid_per_side=vision_model.num_grid_per_side,
            mode=vision_model.interpolation_mode,
            align_corners=vision_model.interpolation_align_corners,
            spatial_merge_size=vision_model.spatial_merge_size,
        )
        indices, weights = to_device(indices, patches.device), to_device(weights, patches.device)
        hidden = vision_model.patch_embed(patches)
        positions = (vision_model.pos_embed(indices) * weights[..., None]).sum(dim=1)
        position_ids = get_vision_position_ids(grid_thw, vision_model.spatial_merge_size)
        hidden = hidden + positions.to(hidden.dtype)
        return hidden, vision_model.rotary_pos_emb(hidden, to_device(position_ids, patches.device))
