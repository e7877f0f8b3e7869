"""Reads of chosen tokens from the device, which need not be waited for at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llm_service.engine.sequence import Sequence as GeneratedSequence
from llm_service.engine.token_logprobs import ChosenLogprobs, read_logprobs

__all__ = ["TokenRead"]


class TokenRead:
    """The next token of each of some sequences, on its way from the device.

    Args:
        sequences: B sequences.
        ids: [B] int64 ids on the device.
        first_token_logprobs: [V] log-probabilities on the device, of the sequences that report them.
        logprobs: [B, 1 + 2k] from `select_logprobs`; None if no sequence reports them.
    """

    def __init__(
        self,
        sequences: Sequence[GeneratedSequence],
        ids: Tensor,
        first_token_logprobs: dict[GeneratedSequence, Tensor],
        logprobs: Tensor | None = None,
    ) -> None:
        self._sequences = list(sequences)
        # One read has both: float64 holds ids exactly.
        self._values = _begin_copy(ids if logprobs is None else torch.cat([ids[:, None].double(), logprobs], dim=1))
        self._first_token_logprobs = {
            sequence: _begin_copy(distribution) for sequence, distribution in first_token_logprobs.items()
        }
        self._is_complete: torch.cuda.Event | None = None
        if ids.device.type == "cuda":
            self._is_complete = torch.cuda.Event()
            self._is_complete.record()

    def __iter__(self) -> Iterator[tuple[GeneratedSequence, int, ChosenLogprobs | None]]:
        """Sequences, ids and log-probabilities if requested. Waits until the device has computed them.

        Stores the log-probabilities of first tokens.
        """
        if self._is_complete is not None:
            self._is_complete.synchronize()
        for sequence, distribution in self._first_token_logprobs.items():
            sequence.first_token_logprobs = distribution.tolist()
        rows = self._values.view(len(self._sequences), -1).tolist()
        for sequence, (token_id, *logprobs) in zip(self._sequences, rows, strict=True):
            num_top = sequence.request.top_logprobs
            yield sequence, int(token_id), None if num_top is None else read_logprobs(logprobs, num_top)


def _begin_copy(tensor: Tensor) -> Tensor:
    """Copy of a tensor on the host, which is complete only after an event that is recorded behind it."""
    if tensor.device.type != "cuda":
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
