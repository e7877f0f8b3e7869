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
    Qwen2_5_VLVisionBlock,
    apply_rotary_pos_emb_vision,
)
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids, get_vision_window_index

from encoder_service.pruners.base import TowerFeatures
from encoder_service.pruners.tower_outputs import (
    KEYS,
    SALIENCY_FIRST,
    SALIENCY_LAST,
    SALIENCY_SECOND_LAST,
    VARIANTS,
    OutputKind,
    TowerOutput,
)
from fovea.modeling.numerics import at_least_float32

__all__ = ["QWEN_OUTPUTS", "QwenVisionTower", "attention_received"]

QWEN_OUTPUTS: Final = frozenset(
    {
        *(TowerOutput(kind, qkv=qkv) for kind in (OutputKind.JOINT, OutputKind.ATTENTION) for qkv in VARIANTS),
        TowerOutput(OutputKind.JOINT),
        KEYS,
        SALIENCY_LAST,
        SALIENCY_SECOND_LAST,
        SALIENCY_FIRST,
    }
)

# Scores of one step of `attention_received`: 256 MiB in float32. A large picture has 65,536 patches before the merger.
_MAX_SCORES: Final = 2**26


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
    * SALIENCY_FIRST: attention received in the first layer, whose queries look into such windows.

    Args:
        visual: transformers' own tower; its layers run with the attention implementation of its config.
    """

    def __init__(self, visual: Qwen2_5_VisionTransformerPretrainedModel) -> None:
        super().__init__()
        self.visual = visual

    @torch.inference_mode()
    def forward(
        self, patches: Tensor, grids: Sequence[tuple[int, int]], outputs: Set[TowerOutput]
    ) -> list[TowerFeatures]:
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

        first = last = hidden = by_windows(visual.patch_embed(patches))
        cos, sin = visual.rotary_pos_emb(hidden, get_vision_position_ids(grid_thw, merge))
        rotary = by_windows(cos), by_windows(sin)
        for index, block in enumerate(visual.blocks):
            spans = whole if index in visual.fullatt_block_indexes else windows
            last, hidden = hidden, block(hidden, cu_seqlens=spans, position_embeddings=rotary)
        features = visual.merger(hidden)

        lengths = whole.diff()
        computed = self._outputs_of_last(last, rotary, lengths, outputs) if outputs else {}
        if TowerOutput(OutputKind.JOINT) in outputs:
            computed[TowerOutput(OutputKind.JOINT)] = features
        if SALIENCY_FIRST in outputs:
            spans = whole if 0 in visual.fullatt_block_indexes else windows
            query, key, _ = _heads(visual.blocks[0], first, rotary)
            computed[SALIENCY_FIRST] = self._saliency(query, key, spans.diff(), lengths)

        to_raster = torch.argsort(to_windows)
        sizes = [rows * columns for rows, columns in grids]
        by_part = features[to_raster].split(sizes)
        views_by_part = {output_name: rows[to_raster].split(sizes) for output_name, rows in computed.items()}
        return [
            # Copies: a part of a batch would keep the whole batch alive in the cache.
            TowerFeatures(
                by_part[i].clone(),
                grid,
                {
                    output_name: _with_mean(rows[i]) if output_name.has_cls else rows[i].clone()
                    for output_name, rows in views_by_part.items()
                },
            )
            for i, grid in enumerate(grids)
        ]

    def _outputs_of_last(
        self, hidden: Tensor, rotary: tuple[Tensor, Tensor], lengths: Tensor, outputs: Set[TowerOutput]
    ) -> dict[TowerOutput, Tensor]:
        """The views of the last layer, which `hidden` [S, C] enters; `lengths` are the patches of each part.

        One row a visual token, sorted by windows still; the joint views yet without row 0.
        """
        block, group = self.visual.blocks[-1], self.visual.spatial_merge_unit
        computed: dict[TowerOutput, Tensor] = {}
        query, key, value = _heads(block, hidden, rotary)
        if saliencies := outputs & {SALIENCY_LAST, SALIENCY_SECOND_LAST}:
            computed |= dict.fromkeys(saliencies, self._saliency(query, key, lengths, lengths))
        if KEYS in outputs:
            keys = block.attn.qkv(block.norm1(hidden)).chunk(3, dim=-1)[1]
            computed[KEYS] = keys.unflatten(0, (-1, group)).flatten(1)
        letters = {"q": query, "k": key, "v": value}
        for variant in VARIANTS:
            joint, attention = (TowerOutput(kind, qkv=variant) for kind in (OutputKind.JOINT, OutputKind.ATTENTION))
            if joint in outputs or attention in outputs:
                output = block.attn.proj(_mixed([letters[letter] for letter in variant], lengths))
                if joint in outputs:
                    computed[joint] = self.visual.merger(output)
                if attention in outputs:
                    computed[attention] = output.unflatten(0, (-1, group)).flatten(1)
        return computed

    def _saliency(self, query: Tensor, key: Tensor, spans: Tensor, lengths: Tensor) -> Tensor:
        """Attention received, mean over heads, over all queries of a part and over the group: [S, H, d] to [S / M].

        Args:
            query, key: Of a layer.
            spans: Lengths of the runs of patches that see each other.
            lengths: Of the parts.
        """
        pairs = zip(query.split(spans.tolist()), key.split(spans.tolist()), strict=True)
        received = torch.cat([attention_received(*pair) for pair in pairs])
        mean = received / torch.repeat_interleave(lengths, lengths)
        saliency: Tensor = mean.unflatten(0, (-1, self.visual.spatial_merge_unit)).mean(dim=1)
        return saliency


def _heads(block: Qwen2_5_VLVisionBlock, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Query, key (both rotated) and value of a layer that `hidden` [S, C] enters, [S, H, d] each."""
    attn = block.attn
    query, key, value = attn.qkv(block.norm1(hidden)).unflatten(-1, (3, attn.num_heads, -1)).unbind(1)
    return *apply_rotary_pos_emb_vision(query, key, *rotary), value


def _with_mean(rows: Tensor) -> Tensor:
    return torch.cat([rows.mean(dim=0, keepdim=True), rows])


def _mixed(heads: Sequence[Tensor], lengths: Tensor) -> Tensor:
    """softmax(A B^T / sqrt(d)) C of `heads` A, B, C inside each part: [S, H, d] to [S, H d]."""
    parts = zip(*(rows.transpose(0, 1).split(lengths.tolist(), dim=1) for rows in heads), strict=True)
    mixed = [nn.functional.scaled_dot_product_attention(*(rows[None] for rows in part))[0] for part in parts]
    return torch.cat(mixed, dim=1).transpose(0, 1).flatten(1)


def attention_received(query: Tensor, key: Tensor) -> Tensor:
    """Column sums of softmax(Q K^T / sqrt(d)), mean over heads, without ever holding the whole map.

    Args:
        query: [S, H, d].
        key: [S, H, d].

    Returns:
        [S], at least float32; 1 on average.
    """
    length, num_heads, width = key.shape
    keys = key.permute(1, 2, 0)  # [H, d, S]
    received = at_least_float32(key.new_zeros(length))
    for queries in query.split(max(1, _MAX_SCORES // (num_heads * length))):
        scores = at_least_float32(queries.transpose(0, 1) @ keys * width**-0.5)
        received += scores.softmax(dim=-1).sum(dim=(0, 1))
    return received / num_heads
