"""Fovea's own pruner: the kept tokens stand for everything in the picture, finer where it matters. Training-free.

DeSAP spends half of the budget on the question and half on saliency, each by its best scores. The best scores of a map
lie on the same few objects, and near-duplicates take the places of objects that nobody kept. Here the patches compete
to represent all others (facility location): a patch is worth what it adds to those taken before. The question, saliency
and evenness are weights of what is to be represented, so none of them has a share of the tokens to use up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from encoder_service.pruners.bands import allocate_budget, bands
from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput, TextFeatures
from encoder_service.pruners.facility_location import greedy_facilities
from encoder_service.pruners.fovea_budget import coverage_for, own_budget_importance, peak_clarity
from encoder_service.pruners.merging import merge_weighted
from encoder_service.pruners.tower_outputs import SALIENCY_LAST, OutputKind, TowerOutput
from fovea.modeling.numerics import at_least_float32
from fovea.parameters import number

__all__ = ["PRUNER", "FoveaParameters", "choose_keep", "importance", "prune", "relevance", "representation"]

# The share of tokens kept at which `question_share` and `breadth_share` hold as they are given.
_REFERENCE_RATIO: Final = 1 / 9
_LARGEST_QUESTION_SHARE: Final = 0.5
_LARGEST_BREADTH_SHARE: Final = 0.75


@dataclass(frozen=True, slots=True)
class FoveaParameters:
    question_share: float = number(
        0.1,
        minimum=0,
        maximum=1,
        description="0 to 1; share of the importance given by the question where a ninth of the tokens is kept;"
        " inversely proportional to the tokens kept, a half at most",
    )
    breadth_share: float = number(
        0.25,
        minimum=0,
        maximum=1,
        description="0 to 1; share of the importance that all patches have alike where a ninth of the tokens is kept;"
        " grows with the tokens kept to the power of 3/2, three quarters at most",
    )
    reach: float = number(
        1.0,
        minimum=0.1,
        maximum=100,
        description="0.1 to 100; how far a token stands for others like it, in units of the spacing between tokens",
    )
    target: float = number(
        0.98,
        minimum=0.9,
        maximum=1,
        description="0.9 to 1; share of the unpruned accuracy to aim at where the budget is left to the pruner",
    )


def relevance(joint: Tensor, text: TextFeatures) -> Tensor:
    """Cosine of each patch of the decoupled branch with the question.

    Args:
        joint: [1 + N, D], CLS and patches in the joint space.
        text: The question; of a text of several windows, the mean of the windows' cosines.

    Returns:
        [N], at least float32.
    """
    patches, eos = normalize(at_least_float32(joint[1:]), dim=-1), normalize(at_least_float32(text.eos), dim=-1)
    return (patches @ eos.T).mean(dim=1)


def _peaks(scores: Tensor) -> Tensor:
    """[N] scores as weights that sum to 1: squares of how far each lies above the median. All zero if none does."""
    above = (scores - scores.median()).clamp_min(0)
    # By the largest first: squares of tiny differences would vanish.
    return _normalised((above / above.max().clamp_min(torch.finfo(above.dtype).tiny)).square())


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def importance(saliency: Tensor, scores: Tensor | None, keep: int, params: FoveaParameters) -> Tensor:
    """How much it matters that a patch is represented: saliency, the question's peaks, and an equal part for everybody.

    The fewer tokens, the more the question decides; the more tokens, the more of them go to what nobody points at.

    Args:
        saliency: [N], not negative.
        scores: [N], relevance to the question; None without one.
        keep: K.
        params: Shares.

    Returns:
        [N], not negative.
    """
    ratio = keep / len(saliency) / _REFERENCE_RATIO
    breadth = min(params.breadth_share * math.pow(ratio, 1.5), _LARGEST_BREADTH_SHARE)
    weights = _normalised(saliency)
    if scores is not None:
        question = min(params.question_share / ratio, _LARGEST_QUESTION_SHARE)
        weights = (1 - question) * weights + question * _peaks(scores)
    return (1 - breadth) * weights + breadth / len(saliency)


def representation(hidden: Tensor, grid: tuple[int, int], ratio: float, reach: float) -> tuple[Tensor, Tensor]:
    """How well patch c stands for patch i.

    Cosines are those of differences from the picture's mean, which all patches share and which hides how they differ.
    Patches that look alike and lie apart are two things: the cosine fades with their distance, over `reach` times the
    spacing that the kept tokens have on the grid, sqrt(N / K) patches.

    Args:
        hidden: [N, C], at least float32.
        grid: Rows and columns.
        ratio: K / N.
        reach: See above.

    Returns:
        [N, N] in 0..1, and the bare cosines [N, N].
    """
    unit = normalize(hidden - hidden.mean(dim=0), dim=-1)
    cosine = unit @ unit.T
    variance = reach**2 / ratio
    axes = (torch.arange(size, device=hidden.device, dtype=hidden.dtype) for size in grid)
    nearness = [torch.exp(-(axis[:, None] - axis).square() / (2 * variance)) for axis in axes]
    return cosine.clamp_min(0) * torch.kron(*nearness), cosine


def prune(job: PrunerInput, params: FoveaParameters) -> PrunedTokens:
    """Chooses K patches that represent all by importance; each other patch joins the one that stands best for it.

    Members weigh by importance, and a merged token is as long as its patch was, so that background does not fade it.
    """
    vision = job.vision
    hidden, saliency = at_least_float32(vision.hidden), at_least_float32(vision.outputs[SALIENCY_LAST])
    scores = None if job.text is None else relevance(vision.outputs[TowerOutput(OutputKind.JOINT, qkv="qqv")], job.text)
    weights = importance(saliency, scores, job.keep, params).to(hidden.dtype)
    spacing = job.keep / len(hidden)
    kept: list[Tensor] = []
    cluster_of_patch = torch.full_like(weights, -1, dtype=torch.int64)
    parts = bands(vision.grid)
    keeps = allocate_budget(
        [float(weights[band.patches].sum()) for band in parts], [band.size for band in parts], job.keep
    )
    for band, keep in zip(parts, keeps, strict=True):
        if keep:
            chosen, joined = _represent(hidden[band.patches], weights[band.patches], band.grid, keep, spacing, params)
            cluster_of_patch[band.patches] = joined + sum(len(some) for some in kept)
            kept.append(chosen + band.patches.start)
    index = torch.cat(kept)
    if (left := cluster_of_patch < 0).any():  # bands without a token of their own
        unit = normalize(hidden - hidden.mean(dim=0), dim=-1)
        cluster_of_patch[left] = (unit[left] @ unit[index].T).argmax(dim=1)
    return PrunedTokens(
        features=merge_weighted(hidden, cluster_of_patch, weights, index),
        origins=index,
        cluster_of_patch=cluster_of_patch,
        task_map=scores,
        saliency_map=saliency,
    )


def _represent(
    hidden: Tensor, weights: Tensor, grid: tuple[int, int], keep: int, ratio: float, params: FoveaParameters
) -> tuple[Tensor, Tensor]:
    """The patches chosen [keep], ascending, and for each patch [N] the place among them of the one that it joins."""
    similarity, cosine = representation(hidden, grid, ratio, params.reach)
    kept = greedy_facilities(similarity, weights, keep).sort().values
    reached = similarity[:, kept]
    # Where nothing near is alike at all, likeness alone decides.
    cluster_of_patch = torch.where(reached.amax(dim=1) > 0, reached.argmax(dim=1), cosine[:, kept].argmax(dim=1))
    cluster_of_patch[kept] = torch.arange(keep, device=cluster_of_patch.device)
    return kept, cluster_of_patch


def choose_keep(job: PrunerInput, params: FoveaParameters) -> int:
    """K for this picture and question; see `fovea_budget`."""
    vision = job.vision
    hidden, saliency = at_least_float32(vision.hidden), at_least_float32(vision.outputs[SALIENCY_LAST])
    peaks, clarity = torch.zeros_like(saliency), 0.0
    if job.text is not None:
        scores = relevance(vision.outputs[TowerOutput(OutputKind.JOINT, qkv="qqv")], job.text)
        peaks, clarity = _peaks(scores), peak_clarity(scores)
    ratio = max(1, round(len(hidden) * _REFERENCE_RATIO)) / len(hidden)
    weights = own_budget_importance(_normalised(saliency), peaks, clarity).to(hidden.dtype)
    keep = 0
    for band in bands(vision.grid):
        similarity, _ = representation(hidden[band.patches], band.grid, ratio, params.reach)
        here = weights[band.patches]
        enough = coverage_for(params.target) * float(here.sum() / weights.sum())
        keep += len(greedy_facilities(similarity, here, band.size, enough=enough))
    return keep


PRUNER = Pruner(
    name="fovea",
    summary="Keeps the tokens that together represent the whole picture, finer where the question or saliency points.",
    reads_text=True,
    parameters=FoveaParameters,
    requirements=lambda params: FeatureRequirements(
        outputs=frozenset({TowerOutput(OutputKind.JOINT, qkv="qqv"), SALIENCY_LAST}), text=True
    ),
    prune=prune,
    choose_keep=choose_keep,
)
