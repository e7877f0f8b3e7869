"""Penalties on the logits of ids that are in the prompt or the answer, as in vLLM and transformers' `generate`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llm_service.sampling import TokenSampling

__all__ = ["SeenIds", "has_penalties", "penalize"]


@dataclass(frozen=True)
class SeenIds:
    """The ids in prompt and answer of B sequences.

    Attributes:
        ids: [B, N] int64 ids, in any order; entries of neither kind hold any id.
        is_prompt: [B, N] bool; the repetition of an id in the prompt does not matter.
        is_answer: [B, N] bool.
    """

    ids: Tensor
    is_prompt: Tensor
    is_answer: Tensor


def has_penalties(params: TokenSampling) -> bool:
    """Whether the parameters have a penalty."""
    return params.repetition_penalty != 1 or params.frequency_penalty != 0 or params.presence_penalty != 0


def penalize(logits: Tensor, seen: SeenIds, repetition: Tensor, frequency: Tensor, presence: Tensor) -> Tensor:
    """[B, V] logits after the repetition penalty, then the frequency and the presence penalty.

    Args:
        logits: [B, V] float32 logits of the next tokens.
        seen: Ids of prompts and answers.
        repetition: [B] divisors of positive and factors of negative logits of all seen ids.
        frequency: [B] amounts subtracted from the logit of an id for each time that it is in the answer.
        presence: [B] amounts subtracted from the logit of each id in the answer.
    """
    # One more column takes the entries that are of neither kind.
    num_ids = logits.shape[1]
    is_seen = torch.zeros(len(logits), num_ids + 1, dtype=torch.bool, device=logits.device)
    is_seen.scatter_(1, seen.ids.where(seen.is_prompt | seen.is_answer, num_ids), True)
    counts = torch.zeros(len(logits), num_ids + 1, dtype=logits.dtype, device=logits.device)
    answer_ids = seen.ids.where(seen.is_answer, num_ids)
    counts.scatter_add_(1, answer_ids, torch.ones_like(answer_ids, dtype=logits.dtype))
    factor = repetition[:, None]
    repeated = torch.where(logits < 0, logits * factor, logits / factor)
    logits = torch.where(is_seen[:, :num_ids], repeated, logits)
    counts = counts[:, :num_ids]
    return logits - frequency[:, None] * counts - presence[:, None] * (counts > 0)
