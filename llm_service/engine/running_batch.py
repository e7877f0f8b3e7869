"""Batch of the running sequences. Sequences are added by a prefill, decoded together, and removed when they finish."""

from __future__ import annotations

import logging
from collections import abc
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

import torch

from fovea.errors import InternalError, ServiceError
from fovea.telemetry import FailureKind, count_failure
from llm_service.engine.errors import fail, internal_error, overflow_error, to_service_error
from llm_service.engine.sequence import Sequence
from llm_service.sampling import sample

__all__ = ["Runner", "RunningBatch"]

log = logging.getLogger(__name__)

_NOT_FINITE: Final = -1  # in place of the id of a token

Inputs = TypeVar("Inputs")
Inputs_contra = TypeVar("Inputs_contra", contravariant=True)


class Runner(Protocol[Inputs_contra]):
    """Runner of a batch's forward passes; its sequences are in the order of their prefills. See `ModelRunner`."""

    def clear(self) -> None: ...

    def prefill(self, prompts: abc.Sequence[Inputs_contra]) -> torch.Tensor: ...

    def decode(self, token_ids: abc.Sequence[int]) -> torch.Tensor: ...

    def keep(self, indices: abc.Sequence[int]) -> None: ...


class RunningBatch(Generic[Inputs]):
    """Running sequences, in the order in which the runner holds their key-value cache.

    Args:
        runner: Runner of the forward passes.
        prepare: Function from a sequence to the inputs that the runner prefills.
        release: Function that is called with each sequence after its end, for what was reserved at its admission.
    """

    def __init__(
        self,
        runner: Runner[Inputs],
        prepare: Callable[[Sequence], Inputs],
        release: Callable[[Sequence], object] = lambda _: None,
    ) -> None:
        self._runner = runner
        self._prepare = prepare
        self._release = release
        self._sequences: list[Sequence] = []  # in the runner's order

    def __len__(self) -> int:
        return len(self._sequences)

    def prefill(self, waiting: list[Sequence]) -> None:
        """Admits sequences and gives them their first token.

        If the prefill of several prompts fails, each prompt is prefilled alone. A failing prompt thus ends only its own
        sequence.
        """
        for sequence in waiting:
            sequence.admit()
        prepared = [(sequence, inputs) for sequence in waiting if (inputs := self._prepared(sequence)) is not None]
        if not prepared or (error := self._try_prefill(prepared)) is None:
            return
        # The retry is outside the `except` block, whose exception would keep the tensors of the failed attempt alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(prepared) == 1:
            self._fail_unprefilled(prepared[0][0], error)
            return
        count_failure(FailureKind.PREFILL_SPLIT)
        for sequence, inputs in prepared:
            if (error := self._try_prefill([(sequence, inputs)])) is not None:
                self._fail_unprefilled(sequence, error)

    def _fail_unprefilled(self, sequence: Sequence, error: ServiceError) -> None:
        fail([sequence], error)
        self._release(sequence)

    def _prepared(self, sequence: Sequence) -> Inputs | None:
        """Inputs of a sequence for the runner. If they cannot be computed, the sequence fails and None is returned."""
        try:
            return self._prepare(sequence)
        except Exception as error:
            log.exception("prefill of 1 sequences failed")
            self._fail_unprefilled(sequence, to_service_error(error))
            return None

    def _try_prefill(self, prepared: list[tuple[Sequence, Inputs]]) -> ServiceError | None:
        """Prefills sequences together and gives them their first token; returns the error of a failed prefill."""
        sequences = [sequence for sequence, _ in prepared]
        try:
            logits = self._runner.prefill([inputs for _, inputs in prepared])
        except Exception as error:
            log.exception("prefill of %d sequences failed", len(prepared))
            return to_service_error(error)
        self._sequences += sequences
        for sequence, sequence_logits in zip(sequences, logits, strict=True):
            if sequence.request.first_token_logprobs:
                sequence.first_token_logprobs = torch.log_softmax(sequence_logits, dim=-1).tolist()
        _append_tokens(sequences, logits)
        self.remove_finished()
        return None

    def decode(self) -> None:
        """Gives every sequence its next token."""
        if self._sequences:
            logits = self._runner.decode([sequence.token_ids[-1] for sequence in self._sequences])
            _append_tokens(self._sequences, logits)
            self.remove_finished()

    def remove_finished(self) -> None:
        """Removes finished and aborted sequences."""
        unfinished = [i for i, sequence in enumerate(self._sequences) if not sequence.finished]
        kept = [i for i in unfinished if not self._sequences[i].aborted]
        count_failure(FailureKind.GENERATION_ABORTED, len(unfinished) - len(kept))
        if len(kept) < len(self._sequences):
            self._runner.keep(kept)
            removed = set(range(len(self._sequences))) - set(kept)
            for i in removed:
                self._release(self._sequences[i])
            self._sequences = [self._sequences[i] for i in kept]

    def fail(self, error: ServiceError | None = None) -> None:
        """Ends and removes all sequences with an error; the default is an internal error."""
        failed, self._sequences = self._sequences, []
        fail(failed, error or internal_error())
        self._runner.clear()
        for sequence in failed:
            self._release(sequence)


def _append_tokens(sequences: list[Sequence], logits: torch.Tensor) -> None:
    """Chooses and appends the next token of each sequence.

    Args:
        sequences: B sequences.
        logits: [B, V] logits of the next tokens; penalties change them in place.
    """
    largest = _largest_ids(logits)
    for i, sequence in enumerate(sequences):
        if largest[i] == _NOT_FINITE:
            fail([sequence], _not_finite_error(sequence))
            continue
        try:
            sequence.append_token(_next_token(sequence, logits, i, largest[i]))
        except Exception as error:
            log.exception("the next token of a sequence failed")
            fail([sequence], to_service_error(error))


def _largest_ids(logits: torch.Tensor) -> list[int]:
    """Id of the largest logit of each sequence, or _NOT_FINITE. Reads from the device once for all sequences."""
    lowest, highest = logits.aminmax(dim=-1)  # NaN is lower and higher than any number
    finite = lowest.isfinite() & highest.isfinite()
    ids: list[int] = torch.where(finite, logits.argmax(dim=-1), _NOT_FINITE).tolist()
    return ids


def _next_token(sequence: Sequence, logits: torch.Tensor, index: int, largest: int) -> int:
    """Next token of one sequence. Only penalties and sampling read its logits."""
    sampling = sequence.request.sampling
    if sequence.penalties is None and sampling.temperature == 0:
        return largest
    if sequence.penalties is not None:
        sequence.penalties.apply(logits[index], sequence.token_ids)
    return sample(logits[index], sampling, sequence.generator)


def _not_finite_error(sequence: Sequence) -> ServiceError:
    if sequence.request.prompt.visual_tokens:
        return overflow_error()
    return InternalError("the model produced numbers that are not finite")
