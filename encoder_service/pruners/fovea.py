"""Fovea's own training-free pruner: the kept tokens together represent all patches, important ones in more detail.

DeSAP spends half of the budget on the highest scores of the question and half on those of saliency. The highest scores
of a map lie on few objects, and near-duplicates use up the budget of other objects. Here each next patch is the one
that most improves how well the chosen patches represent all patches (facility location). The question, saliency and an
equal share for all patches weight the patches to be represented. They are not shares of the tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from encoder_service.pruners.auto_budget import auto_budget_importance, peak_clarity, target_coverage
from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput, TextFeatures
from encoder_service.pruners.chunks import GridChunk, allocate_budget, chunk_grid
from encoder_service.pruners.facility_location import (
    counts_to_reach,
    greedy_facility_location,
    lazy_greedy_facility_location,
    values_of_greedy_sets,
)
from encoder_service.pruners.fcma import mean_relevance
from encoder_service.pruners.merging import in_each_plane, merge_weighted
from encoder_service.pruners.tower_outputs import SALIENCY_LAST, OutputKind, TowerOutput
from fovea.modeling.numerics import at_least_float32
from fovea.parameters import number

__all__ = ["PRUNER", "FoveaParameters", "choose_keep", "importance", "prune", "relevance", "representativeness"]

# Share of tokens kept at which `question_share` and `breadth_share` apply unchanged.
_REFERENCE_RATIO: Final = 1 / 9
_LARGEST_QUESTION_SHARE: Final = 0.5
_LARGEST_BREADTH_SHARE: Final = 0.75
_LAZY_PATCHES: Final = 1024
_MAX_PAIRS: Final = 2**24
"""Largest number of pairs of patches in a batch that is searched at once: 64 MiB a matrix in float32."""


@dataclass(frozen=True, slots=True)
class FoveaParameters:
    question_share: float = number(
        0.1,
        minimum=0,
        maximum=1,
        description="0 to 1; the question's share of the importance when a ninth of the tokens is kept; it falls in"
        " inverse proportion to the number of tokens kept and is at most 1/2",
    )
    breadth_share: float = number(
        0.25,
        minimum=0,
        maximum=1,
        description="0 to 1; share of the importance spread evenly over all patches when a ninth of the tokens is kept;"
        " it grows with the number of tokens kept to the power of 3/2 and is at most 3/4",
    )
    reach: float = number(
        1.0,
        minimum=0.1,
        maximum=100,
        description="0.1 to 100; how far a token stands for similar patches, in units of the spacing of kept tokens",
    )
    target: float = number(
        0.98,
        minimum=0.9,
        maximum=1,
        description="0.9 to 1; share of the unpruned accuracy to aim at when the budget is auto",
    )


def relevance(joint: Tensor, text: TextFeatures) -> Tensor:
    """Relevance of each patch: cosine of its decoupled embedding with the question's EOS, mean over the text's windows.

    Args:
        joint: CLS and patches in the joint space, [1 + N, D].
        text: features of the question.

    Returns:
        [N], at least float32.
    """
    patches = normalize(at_least_float32(joint[..., 1:, :]), dim=-1)
    eos = normalize(at_least_float32(text.eos), dim=-1)
    return mean_relevance(patches, eos, text.is_window)


def _peak_weights(scores: Tensor) -> Tensor:
    """Squares of the scores' [N] excess over their median, scaled to sum to 1; all zero if no score exceeds it."""
    above = (scores - scores.median(dim=-1, keepdim=True).values).clamp_min(0)
    # The excess is divided by the largest first, since squares of tiny differences would underflow.
    largest = above.amax(dim=-1, keepdim=True).clamp_min(torch.finfo(above.dtype).tiny)
    return _normalised((above / largest).square())


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


def importance(saliency: Tensor, scores: Tensor | None, keep: int, params: FoveaParameters) -> Tensor:
    """Importance of representing each patch: a sum of saliency, peaks of relevance, and an equal share for all patches.

    The share of the question falls with the number of tokens, and the equal share grows with it.

    Args:
        saliency: attention of CLS to each patch, [N], not negative.
        scores: relevance to the question, [N]; None without a question.
        keep: K, number of tokens to keep.
        params: parameters with the question's share and the equal share of all patches.

    Returns:
        [N], not negative.
    """
    num_patches = saliency.shape[-1]
    ratio = keep / num_patches / _REFERENCE_RATIO
    breadth = min(params.breadth_share * math.pow(ratio, 1.5), _LARGEST_BREADTH_SHARE)
    weights = _normalised(saliency)
    if scores is not None:
        question = min(params.question_share / ratio, _LARGEST_QUESTION_SHARE)
        weights = (1 - question) * weights + question * _peak_weights(scores)
    return (1 - breadth) * weights + breadth / num_patches


def representativeness(hidden: Tensor, grid: tuple[int, int], ratio: float, reach: float) -> tuple[Tensor, Tensor]:
    """Representativeness of patch c for patch i: their cosine, reduced by a Gaussian of their distance on the grid.

    The mean of all patches is subtracted first, since it hides their differences. Distance counts because similar
    patches that are far apart are separate objects.

    Args:
        hidden: features of the patches, [N, C], at least float32.
        grid: rows and columns of the patch grid.
        ratio: K / N.
        reach: standard deviation of the Gaussian in units of the spacing of kept tokens, sqrt(N / K) patches.

    Returns:
        Representativeness, [N, N] in 0..1, and the cosine alone, [N, N].
    """
    unit = _centred(hidden)
    cosine = unit @ unit.mT
    variance = reach**2 / ratio
    axes = (torch.arange(size, device=hidden.device, dtype=hidden.dtype) for size in grid)
    nearness = [torch.exp(-(axis[:, None] - axis).square() / (2 * variance)) for axis in axes]
    return cosine.clamp_min(0) * torch.kron(*nearness), cosine


def _centred(hidden: Tensor) -> Tensor:
    """Patches without their mean, scaled to unit length, [N, C]."""
    return normalize(hidden - hidden.mean(dim=-2, keepdim=True), dim=-1)


def prune(inputs: PrunerInput, params: FoveaParameters) -> PrunedTokens:
    """Keeps K patches that represent all patches, weighted by importance, and merges each other patch into one of them.

    A merged token is the mean weighted by importance, rescaled to the norm of its kept patch, so that background does
    not weaken an object.
    """
    vision = inputs.vision
    hidden, saliency = at_least_float32(vision.hidden), at_least_float32(vision.outputs[SALIENCY_LAST])
    scores = _scores(inputs)
    weights = importance(saliency, scores, inputs.keep, params).to(hidden.dtype)
    if vision.planes is None:
        tokens = _represent(hidden, hidden, weights, vision.grid, inputs.keep, params.reach)
        return PrunedTokens(tokens.vectors, tokens.kept, tokens.cluster_of_patch, scores, saliency)
    vectors = torch.cat([hidden[..., None, :, :], at_least_float32(vision.planes)], dim=-3)
    tokens = _represent(hidden, vectors, weights, vision.grid, inputs.keep, params.reach)
    features, planes = tokens.vectors[..., 0, :, :], tokens.vectors[..., 1:, :, :]
    return PrunedTokens(features, tokens.kept, tokens.cluster_of_patch, scores, saliency, planes=planes)


def _scores(inputs: PrunerInput) -> Tensor | None:
    """Relevance of each patch to the question; None without a question."""
    if inputs.text is None:
        return None
    return relevance(inputs.vision.outputs[TowerOutput(OutputKind.JOINT, qkv="qqv")], inputs.text)


class _Tokens(NamedTuple):
    """Merged tokens [K, C], or with planes [1 + P, K, C]; kept patches [K] ascending; cluster of each patch [N]."""

    vectors: Tensor
    kept: Tensor
    cluster_of_patch: Tensor


def _represent(
    hidden: Tensor, vectors: Tensor, weights: Tensor, grid: tuple[int, int], keep: int, reach: float
) -> _Tokens:
    """Tokens of a batch, chosen by `hidden` and merged from `vectors`.

    The vectors are the features again, [N, C], or features and DeepStack planes, [1 + P, N, C].

    A batch is split where its matrices of all pairs would be large. A grid in several chunks is searched image by
    image, since its chunks have budgets of their own.
    """
    num_patches, chunks = hidden.shape[-2], chunk_grid(grid)
    ratio = keep / num_patches
    if len(chunks) == 1 and hidden.dim() == 2:
        return _represent_chunk(hidden, vectors, weights, grid, keep, ratio, reach)
    if len(chunks) == 1:
        at_once = max(1, _MAX_PAIRS // num_patches**2)
        parts = zip(hidden.split(at_once), vectors.split(at_once), weights.split(at_once), strict=True)
        represented = [_represent_chunk(*part, grid, keep, ratio, reach) for part in parts]
        return _Tokens(*(torch.cat(parts) for parts in zip(*represented, strict=True)))
    masses = torch.stack([weights[..., chunk.patches].sum(dim=-1) for chunk in chunks], dim=-1)
    masses_by_image = masses.view(-1, len(chunks)).tolist()  # the only read of a batch on a GPU
    images = zip(
        hidden.view(-1, *hidden.shape[-2:]),
        vectors.view(-1, *vectors.shape[hidden.dim() - 2 :]),
        weights.view(-1, num_patches),
        masses_by_image,
        strict=True,
    )
    by_image = []
    for image_hidden, image_vectors, image_weights, image_masses in images:
        budgets = allocate_budget(image_masses, [chunk.size for chunk in chunks], keep)
        by_image.append(_represent_by_chunks(image_hidden, image_vectors, image_weights, chunks, budgets, reach))
    batch = weights.shape[:-1]
    return _Tokens(*(torch.stack(parts).view(*batch, *parts[0].shape) for parts in zip(*by_image, strict=True)))


def _represent_by_chunks(
    hidden: Tensor, vectors: Tensor, weights: Tensor, chunks: Sequence[GridChunk], budgets: Sequence[int], reach: float
) -> _Tokens:
    """Tokens of all chunks of one image."""
    ratio, count = sum(budgets) / len(hidden), 0
    by_chunk: list[_Tokens] = []
    cluster_of_patch = torch.full_like(weights, -1, dtype=torch.int64)
    for chunk, budget in zip(chunks, budgets, strict=True):
        if budget:
            own = chunk.patches
            tokens = _represent_chunk(hidden[own], vectors[..., own, :], weights[own], chunk.grid, budget, ratio, reach)
            cluster_of_patch[own] = tokens.cluster_of_patch + count
            by_chunk.append(tokens._replace(kept=tokens.kept + own.start))
            count += budget
    kept = torch.cat([tokens.kept for tokens in by_chunk])
    if all(budgets):
        return _Tokens(torch.cat([tokens.vectors for tokens in by_chunk], dim=-2), kept, cluster_of_patch)
    unit = _centred(hidden)
    for chunk, budget in zip(chunks, budgets, strict=True):
        if budget == 0:
            cluster_of_patch[chunk.patches] = (unit[chunk.patches] @ unit[kept].T).argmax(dim=1)
    return _Tokens(_merged(vectors, cluster_of_patch, weights, kept), kept, cluster_of_patch)


def _merged(vectors: Tensor, cluster_of_patch: Tensor, weights: Tensor, kept: Tensor) -> Tensor:
    if vectors.dim() == weights.dim() + 1:
        return merge_weighted(vectors, cluster_of_patch, weights, kept)
    return in_each_plane(merge_weighted, vectors, cluster_of_patch, weights, kept)


def _represent_chunk(
    hidden: Tensor, vectors: Tensor, weights: Tensor, grid: tuple[int, int], keep: int, ratio: float, reach: float
) -> _Tokens:
    """Tokens of one chunk."""
    similarity, cosine = representativeness(hidden, grid, ratio, reach)
    # On a CPU, reading which gains must be computed costs less than computing all of them for a large chunk.
    is_lazy = hidden.dim() == 2 and hidden.device.type == "cpu" and len(hidden) >= _LAZY_PATCHES
    search = lazy_greedy_facility_location if is_lazy else greedy_facility_location
    kept = search(similarity, weights, keep).sort(dim=-1).values
    columns = kept[..., None, :].expand(*weights.shape, keep)
    to_kept = similarity.gather(-1, columns)
    # A patch that no kept patch represents joins the one with the highest cosine.
    is_represented = to_kept.amax(dim=-1) > 0
    by_cosine = cosine.gather(-1, columns).argmax(dim=-1)
    cluster_of_patch = torch.where(is_represented, to_kept.argmax(dim=-1), by_cosine)
    own = torch.arange(keep, device=kept.device).expand(kept.shape)
    cluster_of_patch = cluster_of_patch.scatter_(-1, kept, own)
    return _Tokens(_merged(vectors, cluster_of_patch, weights, kept), kept, cluster_of_patch)


def choose_keep(inputs: PrunerInput, params: FoveaParameters) -> list[int]:
    """Automatic budget K of each tower input, for its question (see `auto_budget`)."""
    vision = inputs.vision
    hidden, saliency = at_least_float32(vision.hidden), at_least_float32(vision.outputs[SALIENCY_LAST])
    hidden, saliency = hidden.view(-1, *hidden.shape[-2:]), saliency.view(-1, saliency.shape[-1])
    scores, num_patches = _scores(inputs), hidden.shape[-2]
    if scores is None:
        peaks, clarity = torch.zeros_like(saliency), torch.zeros_like(saliency[:, 0])
    else:
        scores = scores.view(saliency.shape)
        peaks, clarity = _peak_weights(scores), peak_clarity(scores)
    ratio = max(1, round(num_patches * _REFERENCE_RATIO)) / num_patches
    weights = auto_budget_importance(_normalised(saliency), peaks, clarity).to(hidden.dtype)
    total = weights.sum(dim=-1)
    keep = torch.zeros_like(total, dtype=torch.int64)
    for chunk in chunk_grid(vision.grid):
        at_once = max(1, _MAX_PAIRS // chunk.size**2)
        counts = []
        for start in range(0, len(hidden), at_once):
            part = slice(start, start + at_once)
            similarity, _ = representativeness(hidden[part, chunk.patches], chunk.grid, ratio, params.reach)
            chunk_weights = weights[part, chunk.patches]
            target = target_coverage(params.target) * chunk_weights.sum(dim=-1) / total[part]
            counts.append(counts_to_reach(values_of_greedy_sets(similarity, chunk_weights, target), target))
        keep += torch.cat(counts)
    counted: list[int] = keep.tolist()  # the only read of a batch
    return counted


PRUNER = Pruner(
    name="fovea",
    summary="Keeps the tokens that together best represent the image, more of them where the question or saliency"
    " points. Merges each other token into the kept one that represents it best.",
    reads_text=True,
    parameters=FoveaParameters,
    requirements=lambda params: FeatureRequirements(
        outputs=frozenset({TowerOutput(OutputKind.JOINT, qkv="qqv"), SALIENCY_LAST}), text=True
    ),
    prune=prune,
    choose_keep=choose_keep,
)
