"""Penalties on the logits of ids that are in the prompt or the answer, as in vLLM and transformers' `generate`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from llm_service.sampling import TokenSampling

__all__ = ["Penalties", "make_penalties"]


class Penalties:
    """Penalties of one sequence.

    Args:
        params: Repetition, frequency and presence penalty.
        prompt_ids: [T] ids of the prompt, placeholders of images and videos included. Their repetition does not matter.
    """

    def __init__(self, params: TokenSampling, prompt_ids: npt.NDArray[np.int64]) -> None:
        self._repetition = params.repetition_penalty
        self._frequency = params.frequency_penalty
        self._presence = params.presence_penalty
        self._prompt_ids = torch.from_numpy(prompt_ids).unique()

    def apply(self, logits: torch.Tensor, token_ids: Sequence[int]) -> None:
        """Changes logits in place: the repetition penalty first, then the frequency and the presence penalty.

        Args:
            logits: [V] logits of the next token.
            token_ids: Ids generated so far.
        """
        self._prompt_ids = self._prompt_ids.to(logits.device)
        generated, counts = torch.tensor(token_ids, dtype=torch.long).unique(return_counts=True)
        generated = generated.to(logits.device)
        if self._repetition != 1:
            # An id in both tensors is written twice, with the same value.
            ids = torch.cat([self._prompt_ids, generated])
            values = logits[ids]
            logits[ids] = torch.where(values < 0, values * self._repetition, values / self._repetition)
        if self._frequency:
            logits[generated] -= self._frequency * counts.to(logits.device)
        if self._presence:
            logits[generated] -= self._presence


def make_penalties(params: TokenSampling, prompt_ids: npt.NDArray[np.int64]) -> Penalties | None:
    """Penalties of a sequence; None if the parameters have none."""
    if params.repetition_penalty == 1 and not params.frequency_penalty and not params.presence_penalty:
        return None
    return Penalties(params, prompt_ids)
