"""Qwen2.5-VL's vision tower, with the tower outputs that pruners require.

The tower has no CLS. The language model reads the output of the last layer, so all layers run. Patches are computed
sorted by windows, and the merger makes one visual token of each group of 2 x 2 patches. All results have one vector or
score for each visual token, sorted back into raster order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from typing import Final, TypeAlias

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
    JOINT_FEATURES,
    KEYS,
    SALIENCY_FIRST,
    SALIENCY_LAST,
    SALIENCY_SECOND_LAST,
    VARIANTS,
    OutputKind,
    TowerOutput,
)
from fovea.modeling.numerics import at_least_float32
from fovea.modeling.transfers import to_device

__all__ = ["QWEN_OUTPUTS", "QwenVisionTower", "Run", "attention_received", "split_by_grid"]

QWEN_OUTPUTS: Final = frozenset(
    {
        *(TowerOutput(kind, qkv=qkv) for kind in (OutputKind.JOINT, OutputKind.ATTENTION) for qkv in VARIANTS),
        TowerOutput(OutputKind.JOINT),
        JOINT_FEATURES,
        KEYS,
        SALIENCY_LAST,
        SALIENCY_SECOND_LAST,
        SALIENCY_FIRST,
    }
)

Run: TypeAlias = tuple[int, int]
"""Number of tower inputs that follow one another, and number of patches of each."""

# Largest number of scores in one step of `attention_received`: 256 MiB in float32. A large image has 65,536 patches
# before the merger.
_MAX_SCORES: Final = 2**26


class QwenVisionTower(nn.Module):
    """V layers and the merger, which maps groups of M = 4 patches of width C to the width D of the language model.

    Tower outputs for N visual tokens, in a tower without CLS:

    * JOINT with an attention variant: the last layer's attention output through the merger, [1 + N, D], in the space of
      the language model's input embeddings. Vector 0, in other towers CLS, is the mean of the others. Queries
      and keys are rotated as in the layer itself. JOINT without a variant, also that of layer V-2 (`JOINT_FEATURES`):
      the features themselves.
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
        self, patches: Tensor, grids: Sequence[tuple[tuple[int, int], int]], outputs: Set[TowerOutput]
    ) -> list[TowerFeatures]:
        """Features of several tower inputs (images, pairs of frames), which do not attend to each other.

        transformers' layers compute the attention of each input, and of each window, by itself. What follows them is
        computed for all inputs of a grid at once.

        Args:
            patches: [S, P] pixel values, one tower input after the other, as the checkpoint's processor makes them.
            grids: Grid of visual tokens and number of the tower inputs that have it, one run after the other.
            outputs: Outputs to compute besides the features.

        Returns:
            A batch for each run of tower inputs.
        """
        vision_model, merge = self.vision_model, self.vision_model.spatial_merge_size
        # On the CPU: transformers reads the sizes back.
        grid_thw = torch.tensor([(count, rows * merge, columns * merge) for (rows, columns), count in grids])
        input_bounds = get_vision_cu_seqlens(grid_thw)
        window_index, window_bounds = get_vision_window_index(
            grid_thw, merge, vision_model.window_size, vision_model.patch_size
        )
        to_windows = to_device(window_index, patches.device)

        def by_windows(values: Tensor) -> Tensor:
            in_order: Tensor = values.unflatten(0, (-1, merge**2))[to_windows].flatten(0, 1)
            return in_order

        first = last = hidden = by_windows(vision_model.patch_embed(patches))
        position_ids = to_device(get_vision_position_ids(grid_thw, merge), patches.device)
        cos, sin = vision_model.rotary_pos_emb(hidden, position_ids)
        rotary = by_windows(cos), by_windows(sin)
        for index, block in enumerate(vision_model.blocks):
            bounds = input_bounds if index in vision_model.fullatt_block_indexes else window_bounds
            last, hidden = hidden, block(hidden, cu_seqlens=bounds, position_embeddings=rotary)
        features = vision_model.merger(hidden)

        runs = [(count, rows * columns * merge**2) for (rows, columns), count in grids]
        # The last layer stands for the second-last one, see the class.
        of_last = outputs | {SALIENCY_LAST} if SALIENCY_SECOND_LAST in outputs else outputs
        computed = self.outputs_of_last(last, rotary, runs, of_last) if outputs else {}
        if SALIENCY_SECOND_LAST in outputs:
            computed[SALIENCY_SECOND_LAST] = computed[SALIENCY_LAST]
        computed |= dict.fromkeys(outputs & {TowerOutput(OutputKind.JOINT), JOINT_FEATURES}, features)
        if SALIENCY_FIRST in outputs:
            in_windows = [(1, length) for length in window_bounds.diff().tolist()]
            spans = runs if 0 in vision_model.fullatt_block_indexes else in_windows
            computed[SALIENCY_FIRST] = self.saliency_in(0, first, rotary, runs, spans)
        return split_by_grid(features, computed, grids, to_raster=torch.argsort(to_windows))

    def saliency_in(
        self,
        layer: int,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        runs: Sequence[Run],
        spans: Sequence[Run] | None = None,
    ) -> Tensor:
        """Saliency [S / M] in a layer, from its input `hidden` [S, C].

        Args:
            layer: Index of the layer.
            hidden: Input of the layer.
            rotary: Cosines and sines [S, d].
            runs: Runs of tower inputs.
            spans: Runs of the windows that the layer attends to; None for whole tower inputs.
        """
        query, key, _ = _heads(self.vision_model.blocks[layer], hidden, rotary)
        return self._saliency(_received(query, key, runs if spans is None else spans), runs)

    def outputs_of_last(
        self, hidden: Tensor, rotary: tuple[Tensor, Tensor], runs: Sequence[Run], outputs: Set[TowerOutput]
    ) -> dict[TowerOutput, Tensor]:
        """Outputs of the last layer, from its input `hidden` [S, C].

        They have one vector or score for each visual token, sorted by windows. JOINT does not have vector 0 yet.
        """
        block, group = self.vision_model.blocks[-1], self.vision_model.spatial_merge_unit
        computed: dict[TowerOutput, Tensor] = {}
        query, key, value = _heads(block, hidden, rotary)
        if SALIENCY_LAST in outputs:
            computed[SALIENCY_LAST] = self._saliency(_received(query, key, runs), runs)
        if KEYS in outputs:
            keys = block.attn.qkv(block.norm1(hidden)).chunk(3, dim=-1)[1]
            computed[KEYS] = keys.unflatten(0, (-1, group)).flatten(1)
        letters = {"q": query, "k": key, "v": value}
        for variant in VARIANTS:
            joint, attention = (TowerOutput(kind, qkv=variant) for kind in (OutputKind.JOINT, OutputKind.ATTENTION))
            if joint in outputs or attention in outputs:
                output = block.attn.proj(_mixed([letters[letter] for letter in variant], runs))
                if joint in outputs:
                    computed[joint] = self.vision_model.merger(output)
                if attention in outputs:
                    computed[attention] = output.unflatten(0, (-1, group)).flatten(1)
        return computed

    def _saliency(self, received: Tensor, runs: Sequence[Run]) -> Tensor:
        """Attention received [S], as a mean over all queries of a tower input and over the group: [S / M]."""
        parts = received.split([count * length for count, length in runs])
        means = [part / length for part, (_, length) in zip(parts, runs, strict=True)]
        mean = means[0] if len(means) == 1 else torch.cat(means)
        saliency: Tensor = mean.unflatten(0, (-1, self.vision_model.spatial_merge_unit)).mean(dim=1)
        return saliency


def _heads(block: Qwen2_5_VLVisionBlock, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Query, key (both rotated) and value of a layer with input `hidden` [S, C], [S, H, d] each."""
    attn = block.attn
    query, key, value = attn.qkv(block.norm1(hidden)).unflatten(-1, (3, attn.num_heads, -1)).unbind(1)
    return *apply_rotary_pos_emb_vision(query, key, *rotary), value


def _by_run(values: Tensor, runs: Sequence[Run]) -> list[Tensor]:
    """[S, ...] to one tensor [B, L, ...] for each run of B inputs of L patches."""
    parts = values.split([count * length for count, length in runs])
    return [part.unflatten(0, run) for part, run in zip(parts, runs, strict=True)]


def _received(query: Tensor, key: Tensor, runs: Sequence[Run]) -> Tensor:
    """Attention received by each patch [S] inside its input, from queries and keys [S, H, d]."""
    pairs = zip(_by_run(query, runs), _by_run(key, runs), strict=True)
    received = [attention_received(*pair).flatten() for pair in pairs]
    return received[0] if len(received) == 1 else torch.cat(received)


def _mixed(heads: Sequence[Tensor], runs: Sequence[Run]) -> Tensor:
    """softmax(A B^T / sqrt(d)) C of `heads` A, B, C inside each tower input: [S, H, d] to [S, H d]."""
    by_run = zip(*(_by_run(head, runs) for head in heads), strict=True)
    mixed = [
        nn.functional.scaled_dot_product_attention(*(head.transpose(1, 2) for head in abc)).transpose(1, 2).flatten(2)
        for abc in by_run
    ]
    return torch.cat([part.flatten(0, 1) for part in mixed]) if len(mixed) > 1 else mixed[0].flatten(0, 1)


def split_by_grid(
    features: Tensor,
    computed: dict[TowerOutput, Tensor],
    grids: Sequence[tuple[tuple[int, int], int]],
    *,
    to_raster: Tensor | None = None,
    planes: Tensor | None = None,
) -> list[TowerFeatures]:
    """A batch for each run of tower inputs, in raster order, from vectors of all inputs.

    Args:
        features: [S, D] visual tokens of all inputs.
        computed: Vectors or scores [S, ...] of each output.
        grids: Grid of visual tokens and number of the tower inputs that have it, one run after the other.
        to_raster: [S] index of each token in raster order; None if they are in that order.
        planes: [S, P, D] DeepStack planes of the tokens, in raster order; None for a tower without them.
    """
    runs = [(count, rows * columns) for (rows, columns), count in grids]

    def by_run(values: Tensor) -> list[Tensor]:
        return _by_run(values if to_raster is None else values[to_raster], runs)

    features_by_run = by_run(features)
    outputs_by_run = {output: by_run(values) for output, values in computed.items()}
    planes_by_run = None if planes is None else [part.transpose(1, 2) for part in by_run(planes)]
    return [
        TowerFeatures(
            features_by_run[i],
            grid,
            {
                output: _with_mean(values[i]) if output.has_cls else values[i]
                for output, values in outputs_by_run.items()
            },
            planes=None if planes_by_run is None else planes_by_run[i],
        )
        for i, (grid, _) in enumerate(grids)
    ]


def _with_mean(vectors: Tensor) -> Tensor:
    return torch.cat([vectors.mean(dim=-2, keepdim=True), vectors], dim=-2)


def attention_received(query: Tensor, key: Tensor) -> Tensor:
    """Column sums of softmax(Q K^T / sqrt(d)), mean over heads; the whole map is never in memory.

    Args:
        query: Queries, [..., S, H, d].
        key: Keys, [..., S, H, d].

    Returns:
        [..., S], at least float32; 1 on average.
    """
    *batch, length, num_heads, width = key.shape
    keys = key.movedim(-3, -1)  # [..., H, d, S]
    received = at_least_float32(key.new_zeros(*batch, length))
    for queries in query.split(max(1, _MAX_SCORES // (num_heads * length * math.prod(batch))), dim=-3):
        scores = at_least_float32(queries.transpose(-3, -2) @ keys * width**-0.5)
        received += scores.softmax(dim=-1).sum(dim=(-3, -2))
    return received / num_heads
