"""Relevance of patches to a question: DeSAP's cross-modal attention weighting (FCMA, eq. 3) and the plain mean."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fcma_relevance", "mean_relevance"]


def mean_relevance(patches: Tensor, tokens: Tensor) -> Tensor:
    """Mean similarity A_t(i) = mean_j <P_i, T_j>: patches [N, D] and tokens [T, D] to [N]."""
    return (patches @ tokens.T).mean(dim=1)


def fcma_relevance(
    patches: Tensor,
    cls: Tensor,
    tokens: Tensor,
    query: Tensor,
    *,
    temperature: float = 0.1,
    shifted: bool = False,
    clamp_min: float | None = None,
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

    Returns:
        [N].
    """
    m = patches @ tokens.T
    alpha, beta = patches @ query, tokens @ cls
    if shifted:
        m, alpha, beta = (1 + m) / 2, (1 + alpha) / 2, (1 + beta) / 2
    if clamp_min is not None:
        alpha, beta = alpha.clamp_min(clamp_min), beta.clamp_min(clamp_min)
    alpha, beta = alpha[:, None], beta[None, :]
    mv = alpha / len(patches) * torch.softmax(temperature * beta * m, dim=1)
    mt = beta / len(tokens) * torch.softmax(temperature * alpha * m, dim=0)
    return ((mv + mt) * m).mean(dim=1)
