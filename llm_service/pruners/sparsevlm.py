"""SparseVLM (Zhang et al., ICML 2025, arXiv 2410.04417), version 1.5, and SparseVLM+, its version 2.0.

Text tokens after the picture that have much to do with it are its raters. After three layers the tokens that raters
attend to least go; the better part of them is recycled, clustered into a few tokens that follow the picture. SparseVLM+
recycles nothing, divides attention by what rotary positions alone would give, so that nearness to the text counts for
less, and listens only to the heads that look most at the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fovea.modeling.numerics import at_least_float32, top_k
from fovea.parameters import integer
from llm_service.pruners.base import Choice, LayerView, LlmPruner, Moment, PrunerParameters, Stage
from llm_service.pruners.density_peaks import cluster_means, density_peaks
from llm_service.pruners.schedule import Knots, between, scaled_layers
from llm_service.pruners.selection import attention_rows

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
# Published lists, of 576 tokens, by the average that they stand for.
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
# Rows of attention are made for this many raters at a time, so that a long question needs no more memory.
_RATERS_AT_ONCE: Final = 64
# SparseVLM+ listens to 14 heads of the 32 that a LLaMA-7B has.
_HEADS: Final = 14 / 32


@dataclass(frozen=True, slots=True)
class SparseVlmParameters(PrunerParameters):
    """Nothing of its own."""


@dataclass(frozen=True, slots=True)
class SparseVlmPlusParameters(PrunerParameters):
    heads: int = integer(
        0,
        minimum=0,
        maximum=1024,
        description="0 to 1024 heads that are listened to; 0 takes 14 of each 32, the released code 14 of any number",
    )


def _schedule(knots: Knots, share: float, num_visual: int, num_layers: int) -> tuple[Stage, ...]:
    layers = (layer + 1 for layer in scaled_layers(_AFTER_LAYERS, num_layers))
    kept = (max(1, round(part * num_visual / 576)) for part in between(share, knots))
    return tuple(map(Stage, layers, kept))


def schedule(share: float, num_visual: int, num_layers: int, params: SparseVlmParameters) -> tuple[Stage, ...]:
    """Three prunes; the budget is the average over the layers of what each leaves."""
    return _schedule(_KEPT, share, num_visual, num_layers)


def schedule_plus(share: float, num_visual: int, num_layers: int, params: SparseVlmPlusParameters) -> tuple[Stage, ...]:
    """As `schedule`, with the lists of SparseVLM+."""
    return _schedule(_KEPT_PLUS, share, num_visual, num_layers)


def raters(prompt: Tensor, visual: Tensor) -> Tensor:
    """Ascending places of the text tokens after the last picture that rate the visual tokens.

    Each visual token spreads one vote over the text by the softmax of the plain products of input embeddings; a rater
    gets more votes than the mean.

    Args:
        prompt: [T0, D], input embeddings.
        visual: [N], places of the visual tokens.
    """
    text = torch.arange(int(visual[-1]) + 1, len(prompt), device=prompt.device)
    embeddings = at_least_float32(prompt)
    votes = (embeddings[visual] @ embeddings[text].T).softmax(dim=-1).mean(dim=0)
    chosen = text[votes > votes.mean()]
    # Equal votes, as those of a single token, make no rater; then the end of the prompt speaks.
    return chosen if len(chosen) else text[-1:]


def num_recycled(num_visual: int, keep: int) -> int:
    """How many merged tokens a prune of `num_visual` tokens to `keep` adds."""
    return _num_candidates(num_visual - keep) // 10 + 1


def _num_candidates(num_dropped: int) -> int:
    return min(num_dropped, int(0.3 * num_dropped) + 1)


def _rater_places(moment: Moment) -> Tensor:
    """Raters in the shortened sequence: text after the pictures keeps its distance from the end."""
    return raters(moment.prompt, moment.layout.places) + (len(moment.hidden) - len(moment.prompt))


def prune(moment: Moment, keep: int, params: SparseVlmParameters) -> Choice:
    """What the raters attend to most stays; the best of the rest is clustered."""
    keep = min(keep, len(moment.visual) - 1)
    places = _rater_places(moment)
    # Sums over heads and raters rank as means do.
    parts = [_attention_sum(moment.previous, moment.visual, some) for some in places.split(_RATERS_AT_ONCE)]
    scores = torch.stack(parts).sum(dim=0)
    order = torch.sort(scores, descending=True, stable=True).indices
    candidates = order[keep:][: _num_candidates(len(order) - keep)]
    states = at_least_float32(moment.hidden[moment.visual[candidates]])
    num_clusters = num_recycled(len(order), keep)
    merged = cluster_means(states, density_peaks(states, num_clusters), num_clusters)
    return Choice(order[:keep].sort().values, merged.to(moment.hidden.dtype))


def prune_plus(moment: Moment, keep: int, params: SparseVlmPlusParameters) -> Choice:
    """What the raters attend to most, beyond what positions explain, in the heads that look most at the picture."""
    keep = min(keep, len(moment.visual) - 1)
    places = _rater_places(moment)
    # [H, n]; sums over raters rank as means do.
    parts = [_corrected(moment.previous, moment.visual, some) for some in places.split(_RATERS_AT_ONCE)]
    mass = torch.stack(parts).sum(dim=0)
    heads = top_k(mass.sum(dim=-1), params.heads or max(1, round(_HEADS * len(mass))))
    return Choice(top_k(mass[heads].mean(dim=0), keep))


def _attention_sum(layer: LayerView, visual: Tensor, places: Tensor) -> Tensor:
    """[n]: attention of some raters, summed over heads and these raters."""
    return attention_rows(layer, places)[:, :, visual].sum(dim=(0, 1))


def _corrected(layer: LayerView, visual: Tensor, places: Tensor) -> Tensor:
    """[H, n]: attention of some raters over what rotation alone gives, summed over these raters."""
    return (attention_rows(layer, places)[:, :, visual] / rotary_scores(layer.rotary, places, visual)).sum(dim=1)


def rotary_scores(rotary: tuple[Tensor, Tensor], queries: Tensor, keys: Tensor) -> Tensor:
    """[R, n]: scaled scores of R places on n others if all queries and keys were ones before their rotation.

    No softmax is taken, as in the authors' code. The dot product of two rotated vectors of ones is twice the sum of the
    cosines of the angles between them: the larger, the nearer.
    """
    cos, sin = (at_least_float32(table)[:, : table.shape[-1] // 2] for table in rotary)
    products = cos[queries] @ cos[keys].T + sin[queries] @ sin[keys].T
    return 2 * products / math.sqrt(2 * cos.shape[-1])


PRUNER = LlmPruner(
    name="sparsevlm",
    summary="Keeps what the picture-related words attend to, in three steps; the best of the rest is clustered.",
    reference="SparseVLM, arXiv 2410.04417, version 1.5",
    reads_text=True,
    compact=True,
    parameters=SparseVlmParameters,
    schedule=schedule,
    prune=prune,
    num_merged=num_recycled,
)

PLUS = LlmPruner(
    name="sparsevlm_plus",
    summary="SparseVLM without recycling, its attention freed of the bias of rotary positions.",
    reference="SparseVLM, arXiv 2410.04417, version 2.0",
    reads_text=True,
    compact=False,
    parameters=SparseVlmPlusParameters,
    schedule=schedule_plus,
    prune=prune_plus,
)
