"""VisionZip (CVPR 2025): CLS, the tokens with the most CLS attention, and context tokens merged from all others.

Attention and keys are those of layer V-2. Features are X[V-1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput, TokenOrigin
from encoder_service.pruners.merging import assign_to_nearest, clusters_of_kept, membership
from encoder_service.pruners.selection import complement
from encoder_service.pruners.tower_outputs import CLS_HIDDEN, MEAN_KEYS_SECOND_LAST, SALIENCY_SECOND_LAST
from fovea.modeling.numerics import at_least_float32, take_vectors, top_k
from fovea.modeling.transfers import to_device
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
    num_patches = attention.shape[-1]
    dominant = top_k(attention, num_dominant - 1)
    rest = complement(dominant, num_patches)
    cluster_of_patch = clusters_of_kept(dominant, num_patches)
    cluster_of_patch = torch.where(cluster_of_patch >= 0, cluster_of_patch + 1, cluster_of_patch)  # CLS is token 0
    context_tokens, targets = [], rest[..., :0]
    if num_context:
        step = max(1, rest.shape[-1] // num_context)
        centres = torch.arange(num_context, device=hidden.device) * step  # indices into `rest`
        centres = centres.expand(*rest.shape[:-1], num_context)
        clusters = assign_to_nearest(take_vectors(keys, rest), centres)
        cluster_of_patch = cluster_of_patch.scatter(-1, rest, num_dominant + clusters)
        targets = rest.gather(-1, centres)
        context_tokens.append(_context_tokens(take_vectors(hidden, rest), clusters, centres))
    cls_origin = dominant.new_full((*dominant.shape[:-1], 1), TokenOrigin.CLS)
    group = to_device(torch.tensor([1] + [0] * (num_dominant - 1) + [2] * num_context), hidden.device)
    origins = torch.cat([cls_origin, dominant, targets], dim=-1)
    return PrunedTokens(
        features=torch.cat(
            [at_least_float32(cls_hidden)[..., None, :], take_vectors(hidden, dominant), *context_tokens], dim=-2
        ),
        origins=origins,
        cluster_of_patch=cluster_of_patch,
        saliency_map=attention,
        reading_group=group.expand(origins.shape),
    )


def _context_tokens(features: Tensor, clusters: Tensor, centres: Tensor) -> Tensor:
    """Feature of each centre plus the mean of its cluster's other members: [|R|, C] to [num_context, C]."""
    others = clusters.scatter(-1, centres, -1)
    member = membership(others, centres.shape[-1], features.dtype)
    # clamp_min avoids a division by zero: the token of a cluster of one is its centre's feature.
    means = (member @ features) / member.sum(dim=-1, keepdim=True).clamp_min(1)
    return take_vectors(features, centres) + means


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
