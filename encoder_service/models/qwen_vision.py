"""Qwen2.5-VL's vision tower, and what a pruner may see of its last layer.

There is no CLS, and the language model reads the tower's very end, so all layers run. Patches pass through it sorted by
windows; the merger makes one visual token of each group of 2 x 2. Everything that leaves this module has one row a
visual token, in raster order: scores and features are brought back from the windows by the same permutation.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Final

import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    apply_rotary_pos_emb_vision,
)
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids, get_vision_window_index

from encoder_service.pruners.base import View, VisionFeatures, at_least_float32

__all__ = ["VIEWS", "QwenVisionTower", "attention_received"]

# The letters of a variant: what stands for query, key and value (arXiv 2604.11240, table 4b).
_VARIANTS: Final = ("qqv", "qkv", "kkv", "vvv")

VIEWS: Final = frozenset(
    {
        *(View(f"{kind}_{variant}") for kind in ("joint", "attention") for variant in _VARIANTS),
        View.JOINT_VANILLA,
        View.KEYS,
        View.SALIENCY_LAST,
        View.SALIENCY_SECOND_LAST,
    }
)

# Scores of one step of `attention_received`: 256 MiB in float32. A large picture has 65,536 patches before the merger.
_MAX_SCORES: Final = 2**26

_Heads = dict[str, Tensor]


class QwenVisionTower(nn.Module):
    """V layers and the merger, which takes groups of M = 4 patches of width C to the width D of the language model.

    What the views mean here, with N visual tokens and no CLS:

    * JOINT_*: the last layer's attention output through the merger, [1 + N, D], a space that it shares with the rows of
      the language model's embedding table. Row 0, elsewhere CLS, is the mean of the others. Queries and keys are
      rotated as in the layer itself. JOINT_VANILLA: the features themselves.
    * ATTENTION_*, KEYS: [N, M C], the group's patches side by side, as the merger reads them. Keys are not rotated:
      they are compared as to content, not place.
    * SALIENCY_LAST: [N], attention received in the last layer, mean over heads and queries, then over the group.
    * SALIENCY_SECOND_LAST: the same numbers. Layer V-2 looks into windows of 4 x 4 tokens only, so that its attention
      cannot rank the tokens of a picture; HoloV's own recipe for this family takes the last layer as well.

    Args:
        visual: transformers' own tower; its layers run with the attention implementation of its config.
    """

    def __init__(self, visual: Qwen2_5_VisionTransformerPretrainedModel) -> None:
        super().__init__()
        self.visual = visual

    @torch.inference_mode()
    def forward(self, patches: Tensor, grids: Sequence[tuple[int, int]], views: Set[View]) -> list[VisionFeatures]:
        """Patches of several parts (pictures, pairs of frames), none of which sees another.

        Args:
            patches: [S, P] pixel values, part after part, as the checkpoint's processor makes them.
            grids: Rows and columns of each part's visual tokens.
            views: What to compute beyond the features.
        """
        visual, merge = self.visual, self.visual.spatial_merge_size
        grid_thw = torch.tensor([(1, rows * merge, columns * merge) for rows, columns in grids], device=patches.device)
        whole = get_vision_cu_seqlens(grid_thw)
        to_windows, windows = get_vision_window_index(grid_thw, merge, visual.window_size, visual.patch_size)
        to_windows = to_windows.to(patches.device)

        def by_windows(rows: Tensor) -> Tensor:
            sorted_rows: Tensor = rows.unflatten(0, (-1, merge**2))[to_windows].flatten(0, 1)
            return sorted_rows

        before = hidden = by_windows(visual.patch_embed(patches))
        cos, sin = visual.rotary_pos_emb(hidden, get_vision_position_ids(grid_thw, merge))
        rotary = by_windows(cos), by_windows(sin)
        for index, block in enumerate(visual.blocks):
            spans = whole if index in visual.fullatt_block_indexes else windows
            before, hidden = hidden, block(hidden, cu_seqlens=spans, position_embeddings=rotary)
        features = visual.merger(hidden)
        computed = self._views(before, rotary, features, [rows * columns * merge**2 for rows, columns in grids], views)

        to_raster = torch.argsort(to_windows)
        sizes = [rows * columns for rows, columns in grids]
        by_part = features[to_raster].split(sizes)
        views_by_part = {view: rows[to_raster].split(sizes) for view, rows in computed.items()}
        return [
            # Copies: a part of a batch would keep the whole batch alive in the cache.
            VisionFeatures(
                by_part[i].clone(),
                grid,
                {
                    view: _with_mean(rows[i]) if view.startswith("joint_") else rows[i].clone()
                    for view, rows in views_by_part.items()
                },
            )
            for i, grid in enumerate(grids)
        ]

    def _views(
        self, hidden: Tensor, rotary: tuple[Tensor, Tensor], features: Tensor, lengths: Sequence[int], views: Set[View]
    ) -> dict[View, Tensor]:
        """The views of what enters the last layer, [S, C], part by part of `lengths` patches; sorted by windows still.

        One row a visual token each; the joint views yet without row 0.
        """
        if not views:
            return {}
        attn, merge = self.visual.blocks[-1].attn, self.visual.merger
        normed = self.visual.blocks[-1].norm1(hidden)
        group = self.visual.spatial_merge_unit
        query, key, value = attn.qkv(normed).unflatten(-1, (3, attn.num_heads, -1)).unbind(1)  # [S, H, d]
        heads: _Heads = dict(zip("qk", apply_rotary_pos_emb_vision(query, key, *rotary), strict=True)) | {"v": value}

        computed: dict[View, Tensor] = {}
        if View.JOINT_VANILLA in views:
            computed[View.JOINT_VANILLA] = features
        if View.KEYS in views:
            computed[View.KEYS] = key.flatten(1).unflatten(0, (-1, group)).flatten(1)
        if saliencies := views & {View.SALIENCY_LAST, View.SALIENCY_SECOND_LAST}:
            received = self._received(heads, lengths).view(-1, group).mean(dim=1)
            computed |= dict.fromkeys(saliencies, received)
        for variant in _VARIANTS:
            joint, attention = View(f"joint_{variant}"), View(f"attention_{variant}")
            if joint in views or attention in views:
                output = attn.proj(_mixed(heads, variant, lengths))
                if joint in views:
                    computed[joint] = merge(output)
                if attention in views:
                    computed[attention] = output.unflatten(0, (-1, group)).flatten(1)
        return computed

    def _received(self, heads: _Heads, lengths: Sequence[int]) -> Tensor:
        parts = zip(heads["q"].split(list(lengths)), heads["k"].split(list(lengths)), strict=True)
        return torch.cat([attention_received(query, key) for query, key in parts])


def _with_mean(rows: Tensor) -> Tensor:
    return torch.cat([rows.mean(dim=0, keepdim=True), rows])


def _mixed(heads: _Heads, variant: str, lengths: Sequence[int]) -> Tensor:
    """softmax(A B^T / sqrt(d)) C for the variant's letters ABC, inside each part: [S, H, d] to [S, H d]."""
    letters = [heads[letter].split(list(lengths)) for letter in variant]
    mixed = [
        nn.functional.scaled_dot_product_attention(*(part.transpose(0, 1)[None] for part in parts))[0].transpose(0, 1)
        for parts in zip(*letters, strict=True)
    ]
    return torch.cat(mixed).flatten(1)


def attention_received(query: Tensor, key: Tensor) -> Tensor:
    """Column means of softmax(Q K^T / sqrt(d)) over heads and queries, without ever holding the whole map.

    Args:
        query: [S, H, d].
        key: [S, H, d].

    Returns:
        [S], at least float32; they sum to 1.
    """
    length, num_heads, width = key.shape
    keys = key.permute(1, 2, 0)  # [H, d, S]
    total = at_least_float32(key.new_zeros(length))
    for queries in query.split(max(1, _MAX_SCORES // (num_heads * length))):
        scores = at_least_float32(queries.transpose(0, 1) @ keys * width**-0.5)
        total += scores.softmax(dim=-1).sum(dim=(0, 1))
    return total / (num_heads * length)
