"""VisionZip (CVPR 2025): CLS, the tokens with the most CLS attention, and context tokens merged from all others.

Attention and keys are those of layer V-2. Features are X[V-1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput, TokenOrigin
from encoder_service.pruners.merging import assign_to_nearest
from encoder_service.pruners.tower_outputs import CLS_HIDDEN, MEAN_KEYS_SECOND_LAST, SALIENCY_SECOND_LAST
from fovea.modeling.numerics import at_least_float32, top_k
from fovea.parameters import number

__all__ = ["PRUNER", "VisionZipParameters", "zip_tokens"]


@dataclass(frozen=True, slots=True)
class VisionZipParameters:
    context_share: float = number(
        0.15625,
        minimum=0,
        maximum=1,
        description="0 to 1; share of the budget for context tokens; 0.15625 splits 192, 128 and 64 into 162 + 30,"
        " 108 + 20 and 54 + 10",
    )


def zip_tokens(
    hidden: Tensor, cls_hidden: Tensor, attention: Tensor, keys: Tensor, *, num_dominant: int, num_context: int
) -> PrunedTokens:
    """CLS, its num_dominant - 1 most attended patches, then num_context context tokens merged from the other patches.

    Let R be the other patches in raster order. Every floor(|R| / num_context)-th of them is a target. Each other patch
    of R is merged into the target whose keys have the highest cosine with its own. A context token is the *sum* of the
    target's feature and the mean feature of the patches merged into it, as the method defines it. Its norm is therefore
    about twice that of a feature.

    Args:
        hidden: features X[V-1] of the patches, [N, C].
        cls_hidden: feature of CLS in X[V-1], [C].
        attention: attention of CLS to each patch in layer V-2, mean or sum over the heads, [N].
        keys: keys of layer V-2, mean over the heads, [N, d].
        num_dominant: number of tokens before the context tokens, 1 (CLS alone) to N + 1 - num_context.
        num_context: number of context tokens; 0 drops the other patches.

    Returns:
        CLS, dominant patches in raster order, context tokens in the order of their targets. The origin of a context
        token is its target. Across the tiles of an image the dominant patches come first, then the CLS tokens, then the
        context tokens.
    """
    hidden, attention = at_least_float32(hidden), at_least_float32(attention)
    dominant = top_k(attention, num_dominant - 1)
    is_rest = torch.ones_like(attention, dtype=torch.bool)
    is_rest[dominant] = False
    rest = is_rest.nonzero().squeeze(1)

    cluster_of_patch = torch.full_like(attention, -1, dtype=torch.int64)
    cluster_of_patch[dominant] = torch.arange(1, num_dominant, device=hidden.device)
    targets, context = rest[:0], hidden[:0]
    if num_context:
        step = max(1, len(rest) // num_context)
        centres = torch.arange(num_context, device=hidden.device) * step  # indices into `rest`
        clusters = assign_to_nearest(keys[rest], centres)
        cluster_of_patch[rest] = num_dominant + clusters
        targets, context = rest[centres], _context_tokens(hidden[rest], clusters, centres)
    return PrunedTokens(
        features=torch.cat([at_least_float32(cls_hidden)[None], hidden[dominant], context]),
        origins=torch.cat([dominant.new_tensor([TokenOrigin.CLS]), dominant, targets]),
        cluster_of_patch=cluster_of_patch,
        saliency_map=attention,
        reading_group=torch.cat(
            [
                dominant.new_full((1,), 1),
                torch.zeros_like(dominant),
                dominant.new_full((num_context,), 2),
            ]
        ),
    )


def _context_tokens(features: Tensor, clusters: Tensor, centres: Tensor) -> Tensor:
    """Feature of each centre plus the mean of its cluster's other members: [|R|, C] to [num_context, C]."""
    # The sum is a product with a 0/1 matrix, since index_add_ on CUDA adds in a different order on every run.
    member = one_hot(clusters, len(centres)).T.to(features.dtype)
    member[torch.arange(len(centres), device=features.device), centres] = 0
    # clamp_min avoids a division by zero: the token of a cluster of one is its centre's feature.
    return features[centres] + (member @ features) / member.sum(dim=1, keepdim=True).clamp_min(1)


def prune(inputs: PrunerInput, params: VisionZipParameters) -> PrunedTokens:
    """Keeps CLS, dominant patches and context tokens, K in all. The full budget changes nothing and adds no CLS."""
    vision = inputs.vision
    if inputs.keep >= vision.num_patches:
        return PrunedTokens.unpruned(vision)
    num_context = min(math.floor(params.context_share * inputs.keep + 0.5), inputs.keep - 1)
    return zip_tokens(
        vision.hidden,
        vision.outputs[CLS_HIDDEN],
        vision.outputs[SALIENCY_SECOND_LAST],
        vision.outputs[MEAN_KEYS_SECOND_LAST],
        num_dominant=inputs.keep - num_context,
        num_context=num_context,
    )


PRUNER = Pruner(
    name="visionzip",
    summary="Keeps CLS and the tokens with the most CLS attention, and merges all others into context tokens.",
    reference="VisionZip, CVPR 2025",
    parameters=VisionZipParameters,
    requirements=lambda params: FeatureRequirements(
        outputs=frozenset({CLS_HIDDEN, SALIENCY_SECOND_LAST, MEAN_KEYS_SECOND_LAST})
    ),
    prune=prune,
)
