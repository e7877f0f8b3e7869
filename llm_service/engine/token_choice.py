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
class _Parameters:
    """What the choice for one batch needs beside its logits, on the device.

    Attributes:
        sampled: Indices of the sequences that sample.
        penalized: Indices of the sequences with penalties.
        sampled_index: `sampled` as a tensor.
        penalized_index: `penalized` as a tensor.
        seats: [P] rows of the penalized sequences in the table of seen ids.
        sampling: Parameters of the sequences that sample; None if there are none.
        penalties: [3, P] repetition, frequency and presence penalties.
    """

    sampled: list[int]
    penalized: list[int]
    sampled_index: Tensor
    penalized_index: Tensor
    seats: Tensor
    sampling: SamplingTensors | None
    penalties: Tensor


class _SeenTable:
    """Ids that are in the prompts and answers of sequences with penalties. Each sequence has a row, its seat.

    A row holds the distinct ids of the prompt, then those of the answer in order.

    Args:
        num_seats: Number of rows.
        device: Device of the table.
    """

    def __init__(self, num_seats: int, device: torch.device) -> None:
        self._device = device
        self._free = list(range(num_seats))  # a heap
        self._ids = torch.zeros(num_seats, 0, dtype=torch.int64, device=device)
        # Rows: number of ids of the prompt, of the prompt and the answer.
        self._counts = torch.zeros(2, num_seats, dtype=torch.int64, device=device)

    def take(self, prompt_ids: Tensor, num_positions: int) -> int:
        """Seat of a new sequence.

        Args:
            prompt_ids: Distinct ids of the prompt.
            num_positions: Most ids of prompt and answer.
        """
        if num_positions > self._ids.shape[1]:
            wider = torch.zeros(len(self._ids), num_positions, dtype=torch.int64, device=self._device)
            wider[:, : self._ids.shape[1]] = self._ids
            self._ids = wider
        seat = heapq.heappop(self._free)
        self._ids[seat, : len(prompt_ids)] = to_device(prompt_ids, self._device)
        self._counts[:, seat] = len(prompt_ids)
        return seat

    def release(self, seat: int) -> None:
        """Makes a seat free again."""
        heapq.heappush(self._free, seat)

    def append(self, seats: Tensor, ids: Tensor) -> None:
        """Appends one id to each of some rows."""
        ends = self._counts[1]
        self._ids.index_put_((seats, ends.index_select(0, seats)), ids)
        ends.index_add_(0, seats, torch.ones_like(seats))

    def rows(self, seats: Tensor, longest: int) -> SeenIds:
        """The first `longest` ids of some rows."""
        num_prompt, num_all = self._counts.index_select(1, seats)[:, :, None]
        position = torch.arange(longest, device=self._device)
        is_prompt = position < num_prompt
        return SeenIds(self._ids[:, :longest].index_select(0, seats), is_prompt, (position < num_all) & ~is_prompt)


class TokenChoice:
    """Chooses the next tokens of sequences without reading from the device.

    Args:
        max_batch_size: Most sequences at once.
        device: Device of the logits.
    """

    def __init__(self, max_batch_size: int, device: torch.device) -> None:
        self._device = device
        self._max_batch_size = max_batch_size
        self._seats: dict[Sequence, _Seat] = {}
        self._sequences: list[Sequence] = []
        self._parameters: _Parameters | None = None

    @cached_property
    def _seen(self) -> _SeenTable:
        return _SeenTable(self._max_batch_size, self._device)

    def __call__(self, sequences: abc.Sequence[Sequence], logits: Tensor) -> Tensor:
        """[B] int64 ids of the next tokens on the device; `NOT_FINITE` where the logits are not finite.

        Args:
            sequences: B sequences.
            logits: [B, V] float32 logits.
        """
        parameters = self._parameters_of(sequences, logits.shape[1])
        lowest, highest = logits.aminmax(dim=-1)  # NaN is lower and higher than any number
        is_finite = lowest.isfinite() & highest.isfinite()
        if parameters.penalized:
            logits = self._penalized(sequences, logits, parameters)
        ids = logits.argmax(dim=-1)
        if parameters.sampling is not None:
            draws = torch.tensor([sequences[i].draw() for i in parameters.sampled], dtype=torch.float64)
            index = parameters.sampled_index
            rows = logits.index_select(0, index)
            ids = ids.index_copy(0, index, sample(rows, parameters.sampling, to_device(draws, self._device)))
        if parameters.penalized:
            self._seen.append(parameters.seats, ids.index_select(0, parameters.penalized_index))
            for i in parameters.penalized:
                self._seats[sequences[i]].num_ids += 1
        return ids.where(is_finite, NOT_FINITE)

    def forget(self, sequence: Sequence) -> None:
        """Releases what a sequence has taken."""
        if (seat := self._seats.pop(sequence, None)) is not None:
            self._seen.release(seat.index)

    def _penalized(self, sequences: abc.Sequence[Sequence], logits: Tensor, parameters: _Parameters) -> Tensor:
        longest = max(self._seats[sequences[i]].num_ids for i in parameters.penalized)
        seen = self._seen.rows(parameters.seats, longest)
        index = parameters.penalized_index
        return logits.index_copy(0, index, penalize(logits.index_select(0, index), seen, *parameters.penalties))

    def _parameters_of(self, sequences: abc.Sequence[Sequence], vocab_size: int) -> _Parameters:
        """Parameters of a batch, kept as long as its sequences are the same."""
        if self._parameters is None or list(sequences) != self._sequences:
            self._sequences = list(sequences)
            self._parameters = self._new_parameters(self._sequences, vocab_size)
        return self._parameters

    def _new_parameters(self, sequences: abc.Sequence[Sequence], vocab_size: int) -> _Parameters:
        params = [sequence.request.sampling for sequence in sequences]
        sampled = [i for i, one in enumerate(params) if one.temperature > 0]
        penalized = [i for i, one in enumerate(params) if has_penalties(one)]
        seats = [self._seat_of(sequences[i]).index for i in penalized]
        penalties = [
            [params[i].repetition_penalty, params[i].frequency_penalty, params[i].presence_penalty] for i in penalized
        ]
        sampling = SamplingTensors.of([params[i] for i in sampled], vocab_size, self._device) if sampled else None
        return _Parameters(
            sampled,
            penalized,
            self._index(sampled),
            self._index(penalized),
            self._index(seats),
            sampling,
            to_device(torch.tensor(penalties).view(-1, 3).T.contiguous(), self._device),
        )

    def _seat_of(self, sequence: Sequence) -> _Seat:
        if sequence not in self._seats:
            prompt_ids = torch.from_numpy(sequence.request.prompt.input_ids).unique()
            index = self._seen.take(prompt_ids, len(prompt_ids) + sequence.max_tokens)
            self._seats[sequence] = _Seat(index, len(prompt_ids))
        return self._seats[sequence]

    def _index(self, values: abc.Sequence[int]) -> Tensor:
        return to_device(torch.tensor(values, dtype=torch.int64), self._device)


@dataclass
class _Seat:
    """Row of a sequence in the table of seen ids, and the number of ids in it."""

    index: int
    num_ids: int
