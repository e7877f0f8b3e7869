"""DeSAP: decoupled similarity-aware pruning (arXiv 2604.11240). It selects tokens by the question and by saliency.

In the last layer, query-query attention replaces query-key attention, which preserves each patch's own meaning. The
task map compares the output of this attention, in CLIP's joint space, with the words of the question. The saliency map
is the attention of CLS. Dropped tokens are averaged into the most similar kept token.

The authors' code is not public. The defaults follow the paper's text where it is explicit. Each parameter selects
an ablation of the paper or an interpretation of a point that the paper leaves open.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput, TextFeatures
from encoder_service.pruners.fcma import fcma_relevance, mean_relevance
from encoder_service.pruners.merging import assign_to_nearest
from encoder_service.pruners.selection import select_by_two_scores
from encoder_service.pruners.text_filter import words_by_eos_attention
from encoder_service.pruners.tower_outputs import KEYS, SALIENCY_LAST, SALIENCY_SECOND_LAST, OutputKind, TowerOutput
from fovea.modeling.numerics import at_least_float32, top_k
from fovea.parameters import choice, flag, integer, number

__all__ = [
    "PRUNER",
    "DesapParameters",
    "compared_tokens",
    "joint_output",
    "prune",
    "question_vector",
    "requirements",
    "task_map",
]


@dataclass(frozen=True, slots=True)
class DesapParameters:
    task_share: float = number(
        0.5,
        minimum=0,
        maximum=1,
        description="0 to 1; share of the budget that the question selects, saliency selects the rest",
    )
    attn_variant: str = choice(
        "qqv",
        ("qqv", "qkv", "kkv", "vvv"),
        description="qqv, qkv, kkv or vvv; projections used as query, key and value in the decoupled layer",
    )
    decouple_layer: int = integer(
        -1,
        minimum=-2,
        maximum=-1,
        description="-1 or -2; vision layer whose output is compared with the words",
    )
    similarity: str = choice(
        "decoupled",
        ("decoupled", "vanilla"),
        description="decoupled or vanilla; the words are compared with the output of the decoupled attention or of the"
        " whole layer",
    )
    fcma: bool = flag(
        True, description="true or false; whether FCMA weights the similarities; false takes their mean over the words"
    )
    fcma_lambda: float = number(
        0.1, minimum=0, maximum=1000, description="0 to 1000; factor inside both softmaxes of FCMA"
    )
    fcma_normalize: bool = flag(
        True, description="true or false; whether patches and words are scaled to unit length before they are compared"
    )
    fcma_cosines: str = choice(
        "shifted",
        ("shifted", "signed"),
        description="shifted or signed; range of the cosines: 0 to 1, where a more similar pair always scores higher,"
        " or -1 to 1 as the paper prints them; without fcma_normalize they are signed",
    )
    fcma_clamp_min: float | None = number(
        None,
        minimum=-1000,
        maximum=1000,
        optional=True,
        description="-1000 to 1000 or null; lower bound of the weights alpha and beta of FCMA",
    )
    cls_layer: int = integer(
        -1, minimum=-2, maximum=-1, description="-1 or -2; vision layer whose CLS attention is the saliency"
    )
    merge_metric: str = choice(
        "hidden",
        ("hidden", "key", "decoupled"),
        description="hidden, key or decoupled; vectors on which a dropped token is compared with the kept ones",
    )
    text_filter: str = choice(
        "none",
        ("none", "eot_attention"),
        description="none or eot_attention; the latter compares patches only with the words that have at least the mean"
        " attention of EOS, 32 at most",
    )
    text_filter_over: int = integer(
        0,
        minimum=0,
        maximum=1_000_000,
        description="0 to 1000000; number of tokens, BOS and EOS included, above which text_filter applies; text_rows"
        " applies to shorter texts",
    )
    text_rows: str = choice(
        "all",
        ("all", "without_bos", "without_eos", "words"),
        description="all, without_bos, without_eos or words; text tokens that patches are compared with; EOS represents"
        " the whole question in every case",
    )


def joint_output(params: DesapParameters) -> TowerOutput:
    """Tower output that is compared with the words."""
    qkv = "" if params.similarity == "vanilla" else params.attn_variant
    return TowerOutput(OutputKind.JOINT, params.decouple_layer, qkv)


def _saliency_output(params: DesapParameters) -> TowerOutput:
    return SALIENCY_LAST if params.cls_layer == -1 else SALIENCY_SECOND_LAST


def _metric_output(params: DesapParameters) -> TowerOutput | None:
    match params.merge_metric:
        case "hidden":
            return None
        case "key":
            return KEYS
        case _:
            return TowerOutput(OutputKind.ATTENTION, params.decouple_layer, params.attn_variant)


def requirements(params: DesapParameters) -> FeatureRequirements:
    """Feature requirements of these parameters. Saliency is always required: without a question it selects alone."""
    outputs = (joint_output(params), _saliency_output(params), _metric_output(params))
    return FeatureRequirements(
        outputs=frozenset(output for output in outputs if output is not None),
        text=True,
        eos_attention=params.text_filter == "eot_attention",
    )


def question_vector(eos: Tensor, is_window: Tensor | None = None) -> Tensor:
    """Embedding q of the question: the EOS embedding of its only window.

    For several windows: the normalized mean of their normalized EOS embeddings.

    Args:
        eos: EOS embeddings of the windows, [W, D].
        is_window: mask of the windows, [W] bool; None for all.

    Returns:
        [D], at least float32.
    """
    eos = at_least_float32(eos)
    first = eos[..., 0, :]
    if eos.shape[-2] == 1:
        return first
    unit = normalize(eos, dim=-1)
    if is_window is None:
        return normalize(unit.mean(dim=-2), dim=-1)
    count = is_window.sum(dim=-1, keepdim=True)
    mean = (unit * is_window[..., None]).sum(dim=-2) / count
    return torch.where(count == 1, first, normalize(mean, dim=-1))


def compared_tokens(text: TextFeatures, params: DesapParameters) -> Tensor | None:
    """Mask of the text tokens that patches are compared with, [T] bool: at least one; None for all."""
    match params.text_rows:
        case "all":
            compared = text.is_token
        case "without_bos":
            compared = _and(text.is_token, ~text.is_bos)
        case "without_eos":
            compared = _and(text.is_token, ~text.is_eos)
        case _:
            compared = text.is_word
    if params.text_filter == "none":
        return compared
    assert text.eos_attention is not None
    is_token = torch.ones_like(text.is_word) if text.is_token is None else text.is_token
    is_long = is_token.sum(dim=-1, keepdim=True) > params.text_filter_over
    filtered = words_by_eos_attention(text.eos_attention, text.is_word)
    return torch.where(is_long, filtered, is_token if compared is None else compared)


def _and(first: Tensor | None, second: Tensor) -> Tensor:
    return second if first is None else first & second


def task_map(joint: Tensor, text: TextFeatures, params: DesapParameters) -> Tensor:
    """Task map A_t: relevance of each patch to the question (eq. 3).

    Args:
        joint: CLS and patches in the joint space, [1 + N, D].
        text: features of the question, with at least one word.
        params: parameters of the comparison.

    Returns:
        [N], at least float32.
    """
    joint, query = at_least_float32(joint), question_vector(text.eos, text.is_window)
    tokens, is_compared = at_least_float32(text.tokens), compared_tokens(text, params)
    if params.fcma_normalize:
        joint, tokens, query = normalize(joint, dim=-1), normalize(tokens, dim=-1), normalize(query, dim=-1)
    if not params.fcma:
        return mean_relevance(joint[..., 1:, :], tokens, is_compared)
    return fcma_relevance(
        joint[..., 1:, :],
        joint[..., 0, :],
        tokens,
        query,
        temperature=params.fcma_lambda,
        shifted=params.fcma_normalize and params.fcma_cosines == "shifted",
        clamp_min=params.fcma_clamp_min,
        is_compared=is_compared,
    )


def prune(inputs: PrunerInput, params: DesapParameters) -> PrunedTokens:
    """Selects tokens by both maps (eq. 5) and merges the others. Without a question, saliency selects all tokens."""
    vision = inputs.vision
    saliency = at_least_float32(vision.outputs[_saliency_output(params)])
    relevance = None
    if inputs.text is not None:
        relevance = task_map(vision.outputs[joint_output(params)], inputs.text, params)
        by_score = select_by_two_scores(relevance, saliency, inputs.keep, params.task_share)
        kept = torch.cat(by_score, dim=-1).sort(dim=-1).values
    else:
        kept = top_k(saliency, inputs.keep)
    metric = _metric_output(params)
    cluster_of_patch = assign_to_nearest(vision.hidden if metric is None else vision.outputs[metric], kept)
    return PrunedTokens.merged(vision, kept, cluster_of_patch, task_map=relevance, saliency_map=saliency)


PRUNER = Pruner(
    name="desap",
    summary="Keeps half of the tokens by relevance to the question and half by saliency. Merges each other token into"
    " the most similar kept one.",
    reference="DeSAP, arXiv 2604.11240",
    reads_text=True,
    parameters=DesapParameters,
    requirements=requirements,
    prune=prune,
)
