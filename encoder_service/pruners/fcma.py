"""Relevance of patches to a question: DeSAP's cross-modal attention weighting (FCMA, eq. 3) and the plain mean.

Leading batch axes are allowed. Text tokens are an outer axis of every reduction here, so that padding at the end of a
text adds zeros after all other terms and changes no bit of a sum. Products of matrices may still be rounded otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fcma_relevance", "mean_relevance"]


def mean_relevance(patches: Tensor, tokens: Tensor, is_compared: Tensor | None = None) -> Tensor:
    """Mean similarity A_t(i) = mean_j <P_i, T_j>: patches [N, D] and tokens [T, D] to [N].

    Args:
        patches: patch embeddings.
        tokens: text embeddings.
        is_compared: mask of the tokens in the mean, [T] bool; None for all.
    """
    return _mean_over_tokens(tokens @ patches.mT, is_compared)


def fcma_relevance(
    patches: Tensor,
    cls: Tensor,
    tokens: Tensor,
    query: Tensor,
    *,
    temperature: float = 0.1,
    shifted: bool = False,
    clamp_min: float | None = None,
    is_compared: Tensor | None = None,
) -> Tensor:
    """FCMA relevance A_t(i) = mean_j (MV_ij + MT_ij) m_ij (arXiv 2604.11240, eq. 3).

    With m_ij = <P_i, T_j>, alpha_i = <P_i, q>, beta_j = <T_j, v>:
    MV_ij = alpha_i / N * softmax_j(lambda beta_j m_ij), MT_ij = beta_j / T * softmax_i(lambda alpha_i m_ij).

    In the formula as printed, a negative alpha and a negative m give a positive score. A tower whose cosines are all
    negative then ranks the least relevant patches first. With cosines shifted to [0, 1] a more similar pair always
    scores higher (docs/adr/0007).

    Args:
        patches: patch embeddings P, [N, D].
        cls: CLS embedding v in the same space, [D].
        tokens: text embeddings T, [T, D], T >= 1.
        query: EOS embedding q of the question, [D].
        temperature: lambda.
        shifted: whether m, alpha and beta, which must then be cosines, are replaced by (1 + x) / 2.
        clamp_min: lower bound of alpha and beta; None for no bound.
        is_compared: mask of the tokens that count, [T] bool; None for all.

    Returns:
        [N].
    """
    m = tokens @ patches.mT  # [T, N]
    alpha, beta = query[..., None, :] @ patches.mT, tokens @ cls[..., None]  # [1, N], [T, 1]
    if shifted:
        m, alpha, beta = (1 + m) / 2, (1 + alpha) / 2, (1 + beta) / 2
    if clamp_min is not None:
        alpha, beta = alpha.clamp_min(clamp_min), beta.clamp_min(clamp_min)
    over_tokens = temperature * beta * m
    if is_compared is not None:
        over_tokens = over_tokens.masked_fill(~is_compared[..., None], -torch.inf)
    mv = alpha / patches.shape[-2] * torch.softmax(over_tokens, dim=-2)
    num_tokens = tokens.shape[-2] if is_compared is None else is_compared.sum(dim=-1)[..., None, None]
    mt = beta / num_tokens * torch.softmax(temperature * alpha * m, dim=-1)
    return _mean_over_tokens((mv + mt) * m, is_compared)


def _mean_over_tokens(values: Tensor, is_compared: Tensor | None) -> Tensor:
    """Mean over the compared tokens, [T, N] to [N]."""
    if is_compared is None:
        return values.mean(dim=-2)
    total = values.masked_fill(~is_compared[..., None], 0).sum(dim=-2)
    return total / is_compared.sum(dim=-1)[..., None]
