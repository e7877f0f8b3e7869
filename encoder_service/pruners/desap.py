"""DeSAP: decoupled similarity-aware pruning (arXiv 2604.11240). Half the tokens by the question, half by saliency.

The last layer's attention is replaced by attention of queries with queries, which keeps each patch's own meaning; its
output, in CLIP's joint space, is compared with the words of the question (task map), and the attention of CLS adds what
stands out by itself (saliency map). Dropped tokens are averaged into their most similar kept one.

No code of the authors is public. The defaults are the paper's text where it speaks; each switch is one ablation of the
paper or one reading of what it leaves open.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from encoder_service.pruners.base import FeatureRequirements, PrunedTokens, Pruner, PrunerInput, TextFeatures
from encoder_service.pruners.fcma import fcma_relevance, mean_relevance
from encoder_service.pruners.merging import assign_to_nearest, merge_means
from encoder_service.pruners.selection import select_by_two
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
        description="0 to 1; share of the budget chosen by the question, the rest by saliency",
    )
    attn_variant: str = choice(
        "qqv",
        ("qqv", "qkv", "kkv", "vvv"),
        description="qqv, qkv, kkv or vvv: query, key and value of the decoupled layer",
    )
    decouple_layer: int = integer(
        -1,
        minimum=-2,
        maximum=-1,
        description="-1 or -2; vision layer that is compared with the words, decoupled or vanilla",
    )
    similarity: str = choice(
        "decoupled",
        ("decoupled", "vanilla"),
        description="decoupled or vanilla: compare words with the decoupled attention or with the whole layer",
    )
    fcma: bool = flag(True, description="true or false; false compares by the plain mean over the words")
    fcma_lambda: float = number(
        0.1, minimum=0, maximum=1000, description="0 to 1000; sharpness of FCMA's two softmaxes"
    )
    fcma_normalize: bool = flag(True, description="true or false; scale patches and words to unit length first")
    fcma_cosines: str = choice(
        "shifted",
        ("shifted", "signed"),
        description="shifted or signed: cosines as 0 to 1, so that a more similar pair never counts less, or as the"
        " paper prints them, -1 to 1; without fcma_normalize they are signed",
    )
    fcma_clamp_min: float | None = number(
        None,
        minimum=-1000,
        maximum=1000,
        optional=True,
        description="-1000 to 1000 or null; lower bound of FCMA's global weights alpha and beta",
    )
    cls_layer: int = integer(
        -1, minimum=-2, maximum=-1, description="-1 or -2; vision layer whose CLS attention is saliency"
    )
    merge_metric: str = choice(
        "hidden",
        ("hidden", "key", "decoupled"),
        description="hidden, key or decoupled: what a dropped token's nearest kept one is measured on",
    )
    text_filter: str = choice(
        "none",
        ("none", "eot_attention"),
        description="none or eot_attention; the latter compares only with the words that EOS attends to, 32 at most",
    )
    text_filter_over: int = integer(
        0,
        minimum=0,
        maximum=1_000_000,
        description="0 to 1000000 tokens, BOS and EOS counted; only longer texts are filtered, others are compared as"
        " text_rows says",
    )
    text_rows: str = choice(
        "all",
        ("all", "without_bos", "without_eos", "words"),
        description="all, without_bos, without_eos or words: rows of the text that patches are compared with; EOS still"
        " speaks for the whole question",
    )


def joint_output(params: DesapParameters) -> TowerOutput:
    """What is compared with the words."""
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
    """The views that these parameters call for. Saliency always: it is the fallback for a question without words."""
    outputs = (joint_output(params), _saliency_output(params), _metric_output(params))
    return FeatureRequirements(
        outputs=frozenset(output_name for output_name in outputs if output_name is not None),
        text=True,
        eos_attention=params.text_filter == "eot_attention",
    )


def question_vector(eos: Tensor) -> Tensor:
    """q: the EOS row as it is; of a text of several windows the normalised mean of their normalised EOS rows.

    Args:
        eos: [W, D].

    Returns:
        [D], at least float32.
    """
    eos = at_least_float32(eos)
    return eos[0] if len(eos) == 1 else normalize(normalize(eos, dim=-1).mean(dim=0), dim=-1)


def compared_tokens(text: TextFeatures, params: DesapParameters) -> Tensor:
    """Rows of the text that patches are compared with, in order: [T, D] to at least one of them."""
    if params.text_filter == "eot_attention" and len(text.tokens) > params.text_filter_over:
        assert text.eos_attention is not None
        return text.tokens[words_by_eos_attention(text.eos_attention, text.is_word)]
    match params.text_rows:
        case "all":
            return text.tokens
        case "without_bos":
            return text.tokens[~text.is_bos]
        case "without_eos":
            return text.tokens[~text.is_eos]
        case _:
            return text.tokens[text.is_word]


def task_map(joint: Tensor, text: TextFeatures, params: DesapParameters) -> Tensor:
    """A_t: relevance of each patch to the question.

    Args:
        joint: [1 + N, D], CLS and patches in the joint space.
        text: The question, at least one word.
        params: Switches.

    Returns:
        [N], at least float32.
    """
    joint, query = at_least_float32(joint), question_vector(text.eos)
    tokens = at_least_float32(compared_tokens(text, params))
    if params.fcma_normalize:
        joint, tokens, query = normalize(joint, dim=-1), normalize(tokens, dim=-1), normalize(query, dim=-1)
    if not params.fcma:
        return mean_relevance(joint[1:], tokens)
    return fcma_relevance(
        joint[1:],
        joint[0],
        tokens,
        query,
        temperature=params.fcma_lambda,
        shifted=params.fcma_normalize and params.fcma_cosines == "shifted",
        clamp_min=params.fcma_clamp_min,
    )


def prune(job: PrunerInput, params: DesapParameters) -> PrunedTokens:
    """Selects by both maps, then merges. Without a question the whole budget goes to saliency."""
    vision = job.vision
    saliency = at_least_float32(vision.outputs[_saliency_output(params)])
    relevance = None
    if job.text is not None:
        relevance = task_map(vision.outputs[joint_output(params)], job.text, params)
        kept = torch.cat(select_by_two(relevance, saliency, job.keep, params.task_share)).sort().values
    else:
        kept = top_k(saliency, job.keep)
    metric_view = _metric_output(params)
    cluster_of_patch = assign_to_nearest(vision.hidden if metric_view is None else vision.outputs[metric_view], kept)
    return PrunedTokens(
        features=merge_means(vision.hidden, cluster_of_patch, job.keep),
        origins=kept,
        cluster_of_patch=cluster_of_patch,
        task_map=relevance,
        saliency_map=saliency,
    )


PRUNER = Pruner(
    name="desap",
    summary="Keeps half the tokens by relevance to the question, half by saliency; the others are merged.",
    reference="DeSAP, arXiv 2604.11240",
    reads_text=True,
    parameters=DesapParameters,
    requirements=requirements,
    prune=prune,
)
