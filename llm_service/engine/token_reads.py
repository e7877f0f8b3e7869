"""Reads of chosen tokens from the device, which need not be waited for at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llm_service.engine.sequence import Sequence as GeneratedSequence

__all__ = ["TokenRead"]


class TokenRead:
    """The next token of each of some sequences, on its way from the device.

    Args:
        sequences: B sequences.
        ids: [B] int64 ids on the device.
        first_token_logprobs: [V] log-probabilities on the device, of the sequences that report them.
    """

    def __init__(
        self,
        sequences: Sequence[GeneratedSequence],
        ids: Tensor,
        first_token_logprobs: dict[GeneratedSequence, Tensor],
    ) -> None:
        self._sequences = list(sequences)
        self._ids = _begin_copy(ids)
        self._first_token_logprobs = {
            sequence: _begin_copy(logprobs) for sequence, logprobs in first_token_logprobs.items()
        }
        self._is_complete: torch.cuda.Event | None = None
        if ids.device.type == "cuda":
            self._is_complete = torch.cuda.Event()
            self._is_complete.record()

    def __iter__(self) -> Iterator[tuple[GeneratedSequence, int]]:
        """Sequences and ids. Waits until the device has computed them, and stores log-probabilities."""
        if self._is_complete is not None:
            self._is_complete.synchronize()
        for sequence, logprobs in self._first_token_logprobs.items():
            sequence.first_token_logprobs = logprobs.tolist()
        yield from zip(self._sequences, self._ids.tolist(), strict=True)


def _begin_copy(tensor: Tensor) -> Tensor:
    """Copy of a tensor on the host, which is complete only after an event that is recorded behind it."""
    if tensor.device.type != "cuda":
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
