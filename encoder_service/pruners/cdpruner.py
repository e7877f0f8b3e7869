"""CDPruner (NeurIPS 2025, arXiv 2506.10967) keeps the tokens that differ most from each other, given the question.

Patches are chosen greedily so that their features, each scaled by its relevance, span a large volume
(`determinant.py`). This approximates the most probable set of K patches of a determinantal point process with the
kernel r_i L_ij r_j, where L_ij is the cosine of two patches and r_i the relevance of a patch, 0 to 1. All other patches
are dropped.

* L compares the features that the encoder service sends, as the other pruners do. The published method compares those
  after the projector. The projector of a CLIP family is in the LLM service, which reads no token that is not sent. For
  the families of Qwen the features have passed the merger.
* In a contrastive space (CLIP), r rises with the *negative* cosine of a patch and the question's EOS, mean over the
  text's windows: there, a patch that shows what the text names has a lower cosine with it. The patches are those of
  X[V-1] through post_layernorm and visual_projection, as published.
* Among the language model's input embeddings, r rises with the cosine with the question's tokens, mean over all of
  them, as in OpenVINO's implementation for towers without a text half.
* `relevance_weight` is the w of OpenVINO's kernel (1 - w) L_ij + w r_i L_ij r_j; w = 1 gives the published one.
  OpenVINO searches the upper and the lower half of an image separately. The published method does not, nor does this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from encoder_service.pruners.base import (
    FeatureRequirements,
    PrunedTokens,
    Pruner,
    PrunerInput,
    TextFeatures,
    TextSpace,
)
from encoder_service.pruners.determinant import greedy_determinant
from encoder_service.pruners.fcma import mean_relevance
from encoder_service.pruners.tower_outputs import JOINT_FEATURES
from fovea.modeling.numerics import at_least_float32
from fovea.parameters import choice, number

__all__ = ["PRUNER", "CdprunerParameters", "conditional_kernel", "prune", "relevance"]

_EPSILON: Final = 1e-6  # the authors' value; keeps the lowest relevance above 0, so that its patch can be chosen


@dataclass(frozen=True, slots=True)
class CdprunerParameters:
    relevance_weight: float = number(
        1.0,
        minimum=0,
        maximum=1,
        description="0 to 1; share of the kernel that relevance scales, the rest is the cosine alone; 1 is the"
        " published kernel, 0.5 OpenVINO's default, 0 ignores the question",
    )
    relevance_sign: str = choice(
        "auto",
        ("auto", "negative", "positive"),
        description="auto, negative or positive; sign of the cosine between patch and question in the relevance; auto"
        " is negative in CLIP's joint space and positive among the language model's input embeddings",
    )


def relevance(joint: Tensor, text: TextFeatures, sign: str = "auto") -> Tensor:
    """Relevance of each patch to the question, before it is scaled to 0..1.

    Args:
        joint: vector of the whole image, which is not read, then those of the patches, in the text's space, [1 + N, D].
        text: features of the question.
        sign: `CdprunerParameters.relevance_sign`.

    Returns:
        [N], at least float32.
    """
    is_contrastive = text.space is TextSpace.CONTRASTIVE
    text_vectors, mask = (text.eos, text.is_window) if is_contrastive else (text.tokens, text.is_token)
    patches = normalize(at_least_float32(joint[..., 1:, :]), dim=-1)
    cosine = mean_relevance(patches, normalize(at_least_float32(text_vectors), dim=-1), mask)
    is_negative = is_contrastive if sign == "auto" else sign == "negative"
    return -cosine if is_negative else cosine


def _scaled(scores: Tensor) -> Tensor:
    """Scores [N] scaled to 0..1 and raised by a little, so that the lowest is above 0. Equal scores become 1."""
    low = scores.amin(dim=-1, keepdim=True)
    spread = scores.amax(dim=-1, keepdim=True) - low
    return (scores - low + _EPSILON) / spread.clamp_min(_EPSILON)


def conditional_kernel(hidden: Tensor, scores: Tensor | None, weight: float) -> tuple[Tensor, Tensor]:
    """Features x and quality q with q_i cos(x_i, x_j) q_j = (1 - w) L_ij + w r_i L_ij r_j.

    Args:
        hidden: features of the patches, [N, C].
        scores: relevance of the patches, [N]; None without a question.
        weight: w.

    Returns:
        Features, [N, C], or [N, 2 C] for 0 < w < 1, and quality, [N], both at least float32.
    """
    hidden = at_least_float32(hidden)
    if scores is None or weight == 0:
        return hidden, hidden.new_ones(hidden.shape[:-1])
    relevances = _scaled(scores).to(hidden.dtype)
    if weight == 1:
        return hidden, relevances
    unit = normalize(hidden, dim=-1)
    features = torch.cat([math.sqrt(1 - weight) * unit, math.sqrt(weight) * relevances[..., None] * unit], dim=-1)
    return features, (1 - weight + weight * relevances.square()).sqrt()


def prune(inputs: PrunerInput, params: CdprunerParameters) -> PrunedTokens:
    """Keeps K patches in raster order and drops the others. Without a question the choice is by diversity alone."""
    vision, scores = inputs.vision, None
    if inputs.text is not None:
        scores = relevance(vision.outputs[JOINT_FEATURES], inputs.text, params.relevance_sign)
    kernel = conditional_kernel(vision.hidden, scores, params.relevance_weight)
    kept = greedy_determinant(*kernel, inputs.keep).sort(dim=-1).values
    return replace(PrunedTokens.of_patches(vision, kept), task_map=scores)


PRUNER = Pruner(
    name="cdpruner",
    summary="Keeps the tokens that differ most from each other, weighted by their relevance to the question. Drops all"
    " others.",
    reference="CDPruner, NeurIPS 2025, arXiv 2506.10967",
    reads_text=True,
    parameters=CdprunerParameters,
    requirements=lambda params: FeatureRequirements(outputs=frozenset({JOINT_FEATURES}), text=True),
    prune=prune,
)
