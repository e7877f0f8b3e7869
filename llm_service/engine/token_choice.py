"""Choice of the next tokens of a batch on the device: penalties, greedy choice and sampling."""

from __future__ import annotations

import heapq
from collections import abc
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from fovea.modeling.transfers import to_device
from llm_service.engine.sequence import Sequence
from llm_service.penalties import SeenIds, has_penalties, penalize
from llm_service.sampling import SamplingTensors, sample

__all__ = ["NOT_FINITE", "TokenChoice"]

NOT_FINITE: Final = -1
"""In place of the id of a token whose logits are not finite."""


@dataclass(frozen=True)
class _Sampled:
    """The sequences of a batch that sample.

    Attributes:
        sequences: The sequences.
        index: Their indices in the batch, on the device.
        tensors: Their parameters.
    """

    sequences: list[Sequence]
    index: Tensor
    tensors: SamplingTensors


@dataclass(frozen=True)
class _Penalized:
    """The sequences of a batch with penalties, P of them.

    Attributes:
        seen: Their rows in the table of seen ids.
        index: [P] their indices in the batch, on the device.
        rows: [P] their rows in the table, on the device.
        penalties: [3, P] repetition, frequency and presence penalties.
    """

    seen: list[_SeenRow]
    index: Tensor
    rows: Tensor
    penalties: Tensor


@dataclass
class _SeenRow:
    """Row of a sequence in the table of seen ids, and the number of ids in it."""

    index: int
    num_ids: int


class _SeenTable:
    """Ids that are in the prompts and answers of sequences with penalties.

    Each sequence has a row. It holds the distinct ids of the prompt, then all ids of the answer in order.

    Args:
        num_rows: Number of rows.
        device: Device of the table.
    """

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self._device = device
        self._free = list(range(num_rows))  # a heap
        self._ids = torch.zeros(num_rows, 0, dtype=torch.int64, device=device)
        # Rows: number of ids of the prompt, of the prompt and the answer.
        self._counts = torch.zeros(2, num_rows, dtype=torch.int64, device=device)

    def take(self, prompt_ids: Tensor, max_ids: int) -> int:
        """Row of a new sequence.

        Args:
            prompt_ids: Distinct ids of the prompt.
            max_ids: Most ids of prompt and answer.
        """
        if max_ids > self._ids.shape[1]:
            wider = torch.zeros(len(self._ids), max_ids, dtype=torch.int64, device=self._device)
            wider[:, : self._ids.shape[1]] = self._ids
            self._ids = wider
        prompt_ids = to_device(prompt_ids, self._device)  # before a row is taken, which a failure would not return
        row = heapq.heappop(self._free)
        self._ids[row, : len(prompt_ids)] = prompt_ids
        self._counts[:, row] = len(prompt_ids)
        return row

    def release(self, row: int) -> None:
        """Makes a row free again."""
        heapq.heappush(self._free, row)

    def append(self, rows: Tensor, ids: Tensor) -> None:
        """Appends one id to each of some rows."""
        ends = self._counts[1]
        self._ids.index_put_((rows, ends.index_select(0, rows)), ids)
        ends.index_add_(0, rows, torch.ones_like(rows))

    def seen_ids(self, rows: Tensor, longest: int) -> SeenIds:
        """The first `longest` ids of some rows."""
        num_prompt, num_all = self._counts.index_select(1, rows)[:, :, None]
        position = torch.arange(longest, device=self._device)
        is_prompt = position < num_prompt
        return SeenIds(self._ids[:, :longest].index_select(0, rows), is_prompt, (position < num_all) & ~is_prompt)


class TokenChoice:
    """Chooses the next tokens of sequences without reading from the device.

    Args:
        max_batch_size: Most sequences at once.
        device: Device of the logits.
    """

    def __init__(self, max_batch_size: int, device: torch.device) -> None:
        self._device = device
        self._max_batch_size = max_batch_size
        self._rows: dict[Sequence, _SeenRow] = {}
        # Of the last batch, kept as long as its sequences are the same.
        self._sequences: list[Sequence] = []
        self._sampled: _Sampled | None = None
        self._penalized: _Penalized | None = None

    @cached_property
    def _seen(self) -> _SeenTable:
        return _SeenTable(self._max_batch_size, self._device)

    def __call__(self, sequences: abc.Sequence[Sequence], logits: Tensor) -> Tensor:
        """[B] int64 ids of the next tokens on the device; `NOT_FINITE` where the logits are not finite.

        Args:
            sequences: B sequences.
            logits: [B, V] float32 logits.
        """
        if list(sequences) != self._sequences:
            self._sequences = list(sequences)
            self._sampled = self._find_sampled(logits.shape[1])
            self._penalized = self._find_penalized()
        lowest, highest = logits.aminmax(dim=-1)  # NaN is lower and higher than any number
        is_finite = lowest.isfinite() & highest.isfinite()
        if self._penalized is not None:
            logits = self._apply_penalties(logits, self._penalized)
        ids = logits.argmax(dim=-1)
        if self._sampled is not None:
            ids = ids.index_copy(0, self._sampled.index, self._sample(logits, self._sampled))
        if self._penalized is not None:
            self._seen.append(self._penalized.rows, ids.index_select(0, self._penalized.index))
            for row in self._penalized.seen:
                row.num_ids += 1
        return ids.where(is_finite, NOT_FINITE)

    def forget(self, sequence: Sequence) -> None:
        """Frees the row of a sequence, and drops the last batch if it has the sequence, which would stay in memory."""
        if sequence in self._sequences:
            self._sequences, self._sampled, self._penalized = [], None, None
        if (row := self._rows.pop(sequence, None)) is not None:
            self._seen.release(row.index)

    def _sample(self, logits: Tensor, sampled: _Sampled) -> Tensor:
        draws = torch.tensor([sequence.draw() for sequence in sampled.sequences], dtype=torch.float64)
        return sample(logits.index_select(0, sampled.index), sampled.tensors, to_device(draws, self._device))

    def _apply_penalties(self, logits: Tensor, penalized: _Penalized) -> Tensor:
        seen = self._seen.seen_ids(penalized.rows, max(row.num_ids for row in penalized.seen))
        changed = penalize(logits.index_select(0, penalized.index), seen, *penalized.penalties)
        return logits.index_copy(0, penalized.index, changed)

    def _find_sampled(self, vocab_size: int) -> _Sampled | None:
        indices = [i for i, one in enumerate(self._sequences) if one.request.sampling.temperature > 0]
        if not indices:
            return None
        sequences = [self._sequences[i] for i in indices]
        params = [sequence.request.sampling for sequence in sequences]
        return _Sampled(sequences, self._index(indices), SamplingTensors.of(params, vocab_size, self._device))

    def _find_penalized(self) -> _Penalized | None:
        indices = [i for i, one in enumerate(self._sequences) if has_penalties(one.request.sampling)]
        if not indices:
            return None
        seen = [self._row_of(self._sequences[i]) for i in indices]
        params = [self._sequences[i].request.sampling for i in indices]
        penalties = torch.tensor(
            [
                [one.repetition_penalty for one in params],
                [one.frequency_penalty for one in params],
                [one.presence_penalty for one in params],
            ]
        )
        rows = self._index([row.index for row in seen])
        return _Penalized(seen, self._index(indices), rows, to_device(penalties, self._device))

    def _row_of(self, sequence: Sequence) -> _SeenRow:
        if sequence not in self._rows:
            prompt_ids = torch.from_numpy(sequence.request.prompt.input_ids).unique()
            index = self._seen.take(prompt_ids, len(prompt_ids) + sequence.max_tokens)
            self._rows[sequence] = _SeenRow(index, len(prompt_ids))
        return self._rows[sequence]

    def _index(self, values: abc.Sequence[int]) -> Tensor:
        return to_device(torch.tensor(values), self._device)
