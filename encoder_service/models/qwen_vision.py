"""Qwen2.5-VL's vision tower, with the tower outputs that pruners require.

The tower has no CLS. The language model reads the output of the last layer, so all layers run. Patches are computed
sorted by windows, and the merger makes one visual token of each group of 2 x 2 patches. All results have one vector or
score for each visual token, sorted back into raster order.
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

# Largest number of scores in one step of `attention_received`: 256 MiB in float32. A large image has 65,536 patches
# before the merger.
_MAX_SCORES: Final = 2**26


class QwenVisionTower(nn.Module):
    """V layers and the merger, which maps groups of M = 4 patches of width C to the width D of the language model.

    Tower outputs for N visual tokens, in a tower without CLS:

    * JOINT with an attention variant: the last layer's attention output through the merger, [1 + N, D], in the space of
      the language model's input embeddings. Vector 0, in other towers CLS, is the mean of the others. Queries
      and keys are rotated as in the layer itself. JOINT without a variant: the features themselves.
    * ATTENTION, KEYS: [N, M C], the group's patches side by side, as the merger reads them. Keys are not rotated, so
      that their similarity depends on content and not on position.
    * SALIENCY_LAST: [N], attention received in the last layer, mean over heads and queries, then over the group.
    * SALIENCY_SECOND_LAST: equal to SALIENCY_LAST. Layer V-2 has window attention over 4 x 4 tokens, which cannot rank
      the tokens of an image. HoloV's code for this family takes the last layer as well.
    * SALIENCY_FIRST: attention received in the first layer, which has window attention.

    Args:
        vision_model: transformers' own tower; its layers run with the attention implementation of its config.
    """

    def __init__(self, vision_model: Qwen2_5_VisionTransformerPretrainedModel) -> None:
        super().__init__()
        self.vision_model = vision_model

    @torch.inference_mode()
    def forward(
        self, patches: Tensor, grids: Sequence[tuple[int, int]], outputs: Set[TowerOutput]
    ) -> list[TowerFeatures]:
        """Features of several tower inputs (images, pairs of frames), which do not attend to each other.

        Args:
            patches: [S, P] pixel values, one tower input after the other, as the checkpoint's processor makes them.
            grids: Rows and columns of each tower input's visual tokens.
            outputs: Outputs to compute besides the features.
        """
        vision_model, merge = self.vision_model, self.vision_model.spatial_merge_size
        grid_thw = torch.tensor([(1, rows * merge, columns * merge) for rows, columns in grids], device=patches.device)
        input_bounds = get_vision_cu_seqlens(grid_thw)
        to_windows, window_bounds = get_vision_window_index(
            grid_thw, merge, vision_model.window_size, vision_model.patch_size
        )
        to_windows = to_windows.to(patches.device)

        def by_windows(values: Tensor) -> Tensor:
            in_order: Tensor = values.unflatten(0, (-1, merge**2))[to_windows].flatten(0, 1)
            return in_order

        first = last = hidden = by_windows(vision_model.patch_embed(patches))
        cos, sin = vision_model.rotary_pos_emb(hidden, get_vision_position_ids(grid_thw, merge))
        rotary = by_windows(cos), by_windows(sin)
        for index, block in enumerate(vision_model.blocks):
            bounds = input_bounds if index in vision_model.fullatt_block_indexes else window_bounds
            last, hidden = hidden, block(hidden, cu_seqlens=bounds, position_embeddings=rotary)
        features = vision_model.merger(hidden)

        lengths = input_bounds.diff()
        computed = self._outputs_of_last(last, rotary, lengths, outputs) if outputs else {}
        if TowerOutput(OutputKind.JOINT) in outputs:
            computed[TowerOutput(OutputKind.JOINT)] = features
        if SALIENCY_FIRST in outputs:
            bounds = input_bounds if 0 in vision_model.fullatt_block_indexes else window_bounds
            query, key, _ = _heads(vision_model.blocks[0], first, rotary)
            computed[SALIENCY_FIRST] = self._saliency(query, key, bounds.diff(), lengths)
        return _split_by_input(features, computed, torch.argsort(to_windows), grids)

    def _outputs_of_last(
        self, hidden: Tensor, rotary: tuple[Tensor, Tensor], lengths: Tensor, outputs: Set[TowerOutput]
    ) -> dict[TowerOutput, Tensor]:
        """Outputs of the last layer, from its input `hidden` [S, C] and the number of patches of each tower input.

        They have one vector or score for each visual token, sorted by windows. JOINT does not have vector 0 yet.
        """
        block, group = self.vision_model.blocks[-1], self.vision_model.spatial_merge_unit
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
                    computed[joint] = self.vision_model.merger(output)
                if attention in outputs:
                    computed[attention] = output.unflatten(0, (-1, group)).flatten(1)
        return computed

    def _saliency(self, query: Tensor, key: Tensor, spans: Tensor, lengths: Tensor) -> Tensor:
        """Attention received, mean over heads, over all queries of a tower input and over the group: [S / M].

        Args:
            query, key: Queries and keys of a layer, [S, H, d].
            spans: Lengths of the runs of patches that attend to each other.
            lengths: Number of patches of each tower input.
        """
        pairs = zip(query.split(spans.tolist()), key.split(spans.tolist()), strict=True)
        received = torch.cat([attention_received(*pair) for pair in pairs])
        mean = received / torch.repeat_interleave(lengths, lengths)
        saliency: Tensor = mean.unflatten(0, (-1, self.vision_model.spatial_merge_unit)).mean(dim=1)
        return saliency


def _heads(block: Qwen2_5_VLVisionBlock, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Query, key (both rotated) and value of a layer with input `hidden` [S, C], [S, H, d] each."""
    attn = block.attn
    query, key, value = attn.qkv(block.norm1(hidden)).unflatten(-1, (3, attn.num_heads, -1)).unbind(1)
    return *apply_rotary_pos_emb_vision(query, key, *rotary), value


def _split_by_input(
    features: Tensor, computed: dict[TowerOutput, Tensor], to_raster: Tensor, grids: Sequence[tuple[int, int]]
) -> list[TowerFeatures]:
    """Features and outputs of each tower input in raster order, from those of all inputs sorted by windows."""
    sizes = [rows * columns for rows, columns in grids]
    features_by_input = features[to_raster].split(sizes)
    outputs_by_input = {output: values[to_raster].split(sizes) for output, values in computed.items()}
    return [
        # Copies: a slice of a batch would keep the whole batch alive in the cache.
        TowerFeatures(
            features_by_input[i].clone(),
            grid,
            {
                output: _with_mean(values[i]) if output.has_cls else values[i].clone()
                for output, values in outputs_by_input.items()
            },
        )
        for i, grid in enumerate(grids)
    ]


def _with_mean(vectors: Tensor) -> Tensor:
    return torch.cat([vectors.mean(dim=0, keepdim=True), vectors])


def _mixed(heads: Sequence[Tensor], lengths: Tensor) -> Tensor:
    """softmax(A B^T / sqrt(d)) C of `heads` A, B, C inside each tower input: [S, H, d] to [S, H d]."""
    by_input = zip(*(head.transpose(0, 1).split(lengths.tolist(), dim=1) for head in heads), strict=True)
    mixed = [nn.functional.scaled_dot_product_attention(*(head[None] for head in abc))[0] for abc in by_input]
    return torch.cat(mixed, dim=1).transpose(0, 1).flatten(1)


def attention_received(query: Tensor, key: Tensor) -> Tensor:
    """Column sums of softmax(Q K^T / sqrt(d)), mean over heads; the whole map is never in memory.

    Args:
        query: Queries, [S, H, d].
        key: Keys, [S, H, d].

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
