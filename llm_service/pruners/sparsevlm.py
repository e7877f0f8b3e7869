"""SparseVLM (Zhang et al., ICML 2025, arXiv 2410.04417), version 1.5, and SparseVLM+, its version 2.0.

Raters are the text tokens after the image that are most related to it. At three layers, the visual tokens that get the
least attention from the raters are dropped. The best of the dropped tokens are recycled: they are clustered into a few
tokens that follow the image. SparseVLM+ recycles nothing. It divides the attention by a score that depends on rotary
positions alone, so that proximity to the text counts less. It uses only the heads with the most attention to the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fovea.modeling.numerics import at_least_float32, top_k
from fovea.parameters import integer
from llm_service.pruners.attention import attention_weights
from llm_service.pruners.base import (
    LayerAttention,
    LlmPruningMethod,
    PrunerParameters,
    PruningContext,
    PruningResult,
    Stage,
)
from llm_service.pruners.density_peaks import cluster_means, density_peaks
from llm_service.pruners.schedule import Knots, interpolate, scaled_layers

__all__ = [
    "PLUS",
    "PRUNER",
    "SparseVlmParameters",
    "SparseVlmPlusParameters",
    "num_recycled",
    "prune",
    "prune_plus",
    "raters",
    "rotary_scores",
]

_AFTER_LAYERS: Final = (2, 6, 15)
# Published counts of kept tokens in the three stages, of 576, by the published average budget.
_KEPT: Final[Knots] = (
    (0, (0, 0, 0)),
    (64 / 576, (66, 30, 17)),
    (96 / 576, (238, 48, 26)),
    (128 / 576, (303, 110, 36)),
    (192 / 576, (300, 200, 110)),
    (1, (576, 576, 576)),
)
_KEPT_PLUS: Final[Knots] = (
    (0, (0, 0, 0)),
    (64 / 576, (66, 34, 20)),
    (128 / 576, (238, 108, 60)),
    (192 / 576, (300, 200, 118)),
    (1, (576, 576, 576)),
)
# Attention is computed for this many raters at a time, so that memory does not grow with the length of the question.
_RATERS_PER_CHUNK: Final = 64
# SparseVLM+ uses 14 of the 32 heads of a LLaMA-7B.
_HEADS: Final = 14 / 32


@dataclass(frozen=True, slots=True)
class SparseVlmParameters(PrunerParameters):
    """Parameters of SparseVLM: only the common ones."""


@dataclass(frozen=True, slots=True)
class SparseVlmPlusParameters(PrunerParameters):
    """Parameters of SparseVLM+."""

    heads: int = integer(
        0,
        minimum=0,
        maximum=1024,
        description="0 to 1024 heads whose attention is used; 0 takes 14 of each 32; the released code takes 14",
    )


def _schedule(knots: Knots, share: float, num_visual: int, num_layers: int) -> tuple[Stage, ...]:
    layers = (layer + 1 for layer in scaled_layers(_AFTER_LAYERS, num_layers))
    kept = (max(1, round(count * num_visual / 576)) for count in interpolate(share, knots))
    return tuple(map(Stage, layers, kept))


def schedule(share: float, num_visual: int, num_layers: int, params: SparseVlmParameters) -> tuple[Stage, ...]:
    """Three stages. The budget is the number of visual tokens in a layer, averaged over all layers."""
    return _schedule(_KEPT, share, num_visual, num_layers)


def schedule_plus(share: float, num_visual: int, num_layers: int, params: SparseVlmPlusParameters) -> tuple[Stage, ...]:
    """Three stages, with the counts of SparseVLM+."""
    return _schedule(_KEPT_PLUS, share, num_visual, num_layers)


def raters(inputs_embeds: Tensor, visual_indices: Tensor) -> Tensor:
    """Ascending indices of the raters: text tokens after the last image that get more votes than the mean.

    Each visual token distributes one vote over the text by the softmax of dot products of input embeddings.

    Args:
        inputs_embeds: [T0, D] input embeddings of the prompt.
        visual_indices: [N] indices of the visual tokens.
    """
    text = torch.arange(int(visual_indices[-1]) + 1, len(inputs_embeds), device=inputs_embeds.device)
    embeddings = at_least_float32(inputs_embeds)
    votes = (embeddings[visual_indices] @ embeddings[text].T).softmax(dim=-1).mean(dim=0)
    chosen = text[votes > votes.mean()]
    # If all votes are equal, as with a single text token, no token is above the mean. The last token is then the rater.
    return chosen if len(chosen) else text[-1:]


def num_recycled(num_visual: int, keep: int) -> int:
    """Number of merged tokens that a stage from `num_visual` to `keep` tokens adds."""
    return _num_candidates(num_visual - keep) // 10 + 1


def _num_candidates(num_dropped: int) -> int:
    return min(num_dropped, int(0.3 * num_dropped) + 1)


def _rater_indices(context: PruningContext) -> Tensor:
    """Indices of the raters in the pruned sequence. Its text after the images has kept its distance from the end."""
    offset = len(context.hidden_states) - len(context.inputs_embeds)
    return raters(context.inputs_embeds, context.layout.indices) + offset


def prune(context: PruningContext, keep: int, params: SparseVlmParameters) -> PruningResult:
    """Keeps the tokens that get the most attention from the raters, and clusters the best of the others."""
    visual = context.visual_indices
    keep = min(keep, len(visual) - 1)
    chunks = _rater_indices(context).split(_RATERS_PER_CHUNK)
    # Only the order matters, so sums over heads and raters replace means.
    scores = torch.stack([_attention_sum(context.previous, visual, chunk) for chunk in chunks]).sum(dim=0)
    order = torch.sort(scores, descending=True, stable=True).indices
    candidates = order[keep:][: _num_candidates(len(order) - keep)]
    states = at_least_float32(context.hidden_states[visual[candidates]])
    num_clusters = num_recycled(len(order), keep)
    merged = cluster_means(states, density_peaks(states, num_clusters), num_clusters)
    return PruningResult(order[:keep].sort().values, merged.to(context.hidden_states.dtype))


def prune_plus(context: PruningContext, keep: int, params: SparseVlmPlusParameters) -> PruningResult:
    """Keeps the tokens that get the most position-corrected attention from the raters, in the heads with the most
    attention to the image."""
    visual = context.visual_indices
    keep = min(keep, len(visual) - 1)
    chunks = _rater_indices(context).split(_RATERS_PER_CHUNK)
    # [H, n]; only the order matters, so sums over raters replace means.
    mass = torch.stack([_corrected_attention_sum(context.previous, visual, chunk) for chunk in chunks]).sum(dim=0)
    heads = top_k(mass.sum(dim=-1), params.heads or max(1, round(_HEADS * len(mass))))
    return PruningResult(top_k(mass[heads].mean(dim=0), keep))


def _attention_sum(layer: LayerAttention, visual_indices: Tensor, rater_indices: Tensor) -> Tensor:
    """[n] attention to the visual tokens, summed over heads and some raters."""
    return attention_weights(layer, rater_indices)[:, :, visual_indices].sum(dim=(0, 1))


def _corrected_attention_sum(layer: LayerAttention, visual_indices: Tensor, rater_indices: Tensor) -> Tensor:
    """[H, n] attention to the visual tokens, divided by their rotary scores and summed over some raters."""
    weights = attention_weights(layer, rater_indices)[:, :, visual_indices]
    return (weights / rotary_scores(layer.rotary, rater_indices, visual_indices)).sum(dim=1)


def rotary_scores(rotary: tuple[Tensor, Tensor], query_indices: Tensor, key_indices: Tensor) -> Tensor:
    """[R, n] scaled dot products of queries and keys that are all ones before the rotary embedding.

    There is no softmax, as in the authors' code. The dot product of two rotated vectors of ones is twice the sum of the
    cosines of the angles between them. It is larger for tokens that are nearer to each other.
    """
    cos, sin = (at_least_float32(table)[:, : table.shape[-1] // 2] for table in rotary)
    products = cos[query_indices] @ cos[key_indices].T + sin[query_indices] @ sin[key_indices].T
    return 2 * products / math.sqrt(2 * cos.shape[-1])


PRUNER = LlmPruningMethod(
    name="sparsevlm",
    summary="Keeps, in three stages, what image-related text attends to; the best dropped tokens are clustered.",
    reference="SparseVLM, arXiv 2410.04417, version 1.5",
    reads_text=True,
    compact=True,
    parameters=SparseVlmParameters,
    schedule=schedule,
    prune=prune,
    num_merged=num_recycled,
)

PLUS = LlmPruningMethod(
    name="sparsevlm_plus",
    summary="SparseVLM without clustering, with attention corrected for the bias of rotary positions.",
    reference="SparseVLM, arXiv 2410.04417, version 2.0",
    reads_text=True,
    compact=False,
    parameters=SparseVlmPlusParameters,
    schedule=schedule_plus,
    prune=prune_plus,
)
