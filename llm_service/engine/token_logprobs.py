"""Log-probabilities of chosen tokens and of the most probable ones, on the device and as read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_service.engine.base import TokenLogprob, TopLogprob
from llm_service.engine.token_bytes import TokenBytes

__all__ = ["ChosenLogprobs", "read_logprobs", "select_logprobs"]


@dataclass(frozen=True)
class ChosenLogprobs:
    """Log-probabilities in place of one token.

    Attributes:
        logprob: Log-probability of the chosen token.
        top: Ids and log-probabilities of the most probable tokens, in descending order.
    """

    logprob: float
    top: Sequence[tuple[int, float]]

    def of_token(self, token_id: int, token_bytes: TokenBytes) -> TokenLogprob:
        """Log-probabilities with the bytes of the tokens.

        Args:
            token_id: Id of the chosen token.
            token_bytes: Bytes by id.
        """
        top = tuple(TopLogprob(top_id, token_bytes[top_id], logprob) for top_id, logprob in self.top)
        return TokenLogprob(token_id, token_bytes[token_id], self.logprob, top)


def select_logprobs(logits: Tensor, ids: Tensor, num_top: int) -> Tensor:
    """[B, 1 + 2k] float64: log-probability of the chosen token, then ids and log-probabilities of the k most probable.

    float64 holds ids and float32 numbers exactly, so that one tensor has both.

    Args:
        logits: [B, V] float32 logits, before temperature, filters and penalties.
        ids: [B] int64 ids of the chosen tokens; of a negative id the log-probability has no meaning.
        num_top: k, or more than V.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    top = logprobs.topk(min(num_top, logprobs.shape[1]), dim=-1)
    chosen = logprobs.gather(1, ids.clamp(min=0)[:, None])
    return torch.cat([chosen.double(), top.indices.double(), top.values.double()], dim=1)


def read_logprobs(row: Sequence[float], num_top: int) -> ChosenLogprobs:
    """Log-probabilities of one sequence.

    Args:
        row: Row of `select_logprobs`.
        num_top: Number of most probable tokens that the sequence asks for; others in its batch may ask for more.
    """
    logprob, *top = row
    num_selected = len(top) // 2
    return ChosenLogprobs(logprob, [(int(top[i]), top[num_selected + i]) for i in range(min(num_top, num_selected))])
