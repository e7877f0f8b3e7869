"""VisionZip (CVPR 2025): the tokens that CLS attends to, CLS itself, and context tokens made of all the rest.

Attention and keys are those of layer V-2, features X[V-1].
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
        description="0 to 1; share of the budget for context tokens; 0.15625 gives 162 + 30, 108 + 20 and 54 + 10",
    )


def zip_tokens(
    hidden: Tensor, cls_hidden: Tensor, attention: Tensor, keys: Tensor, *, num_dominant: int, num_context: int
) -> PrunedTokens:
    """CLS, the num_dominant - 1 patches that it attends to most, then num_context rows made of the others.

    The others, in raster order, are R; every floor(|R| / num_context)-th of them is a target, the rest of R joins the
    target whose keys are most similar by cosine. A context row is the *sum* of the target's feature and the mean
    feature of those that joined it, so it is about twice as long as a feature: that is how the method is defined.

    Args:
        hidden: X[V-1], [N, C].
        cls_hidden: Its CLS row, [C].
        attention: Of CLS, layer V-2, [N]; the mean or the sum over the heads.
        keys: Of layer V-2, mean over the heads, [N, d].
        num_dominant: 1 (CLS alone) to N + 1 - num_context.
        num_context: 0 or more; with 0 the others leave no trace.

    Returns:
        CLS, dominant patches in raster order, context rows in the order of their targets. A context row stands for its
        target. Of a tiled picture the tiles' dominant patches come first, then their CLS, then their context rows.
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
        places = torch.arange(num_context, device=hidden.device) * step
        joined = assign_to_nearest(keys[rest], places)
        cluster_of_patch[rest] = num_dominant + joined
        targets, context = rest[places], _context_rows(hidden[rest], joined, places)
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


def _context_rows(rest: Tensor, joined: Tensor, targets: Tensor) -> Tensor:
    """Target plus mean of those that joined it, the target itself not counted: [|R|, C] to [num_context, C]."""
    # A product with a 0/1 matrix, not index_add_: on CUDA that adds in a different order on every run.
    member = one_hot(joined, len(targets)).T.to(rest.dtype)
    member[torch.arange(len(targets), device=rest.device), targets] = 0
    # A target that nobody joined is its feature alone.
    return rest[targets] + (member @ rest) / member.sum(dim=1, keepdim=True).clamp_min(1)


def prune(job: PrunerInput, params: VisionZipParameters) -> PrunedTokens:
    """K rows: CLS, dominant patches, context rows. The full budget changes nothing and emits no CLS."""
    vision = job.vision
    if job.keep >= vision.num_patches:
        return PrunedTokens.all_of(vision)
    num_context = min(math.floor(params.context_share * job.keep + 0.5), job.keep - 1)
    return zip_tokens(
        vision.hidden,
        vision.outputs[CLS_HIDDEN],
        vision.outputs[SALIENCY_SECOND_LAST],
        vision.outputs[MEAN_KEYS_SECOND_LAST],
        num_dominant=job.keep - num_context,
        num_context=num_context,
    )


PRUNER = Pruner(
    name="visionzip",
    summary="Keeps CLS, the tokens that it attends to most, and context tokens that sum up all the others.",
    reference="VisionZip, CVPR 2025",
    parameters=VisionZipParameters,
    requirements=lambda params: FeatureRequirements(
        outputs=frozenset({CLS_HIDDEN, SALIENCY_SECOND_LAST, MEAN_KEYS_SECOND_LAST})
    ),
    prune=prune,
)
