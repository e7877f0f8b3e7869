"""Running sequences: admitted, prefilled, decoded together, and removed at their end."""

from __future__ import annotations

import logging
from collections import abc, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from fovea.errors import InternalError, ServiceError
from fovea.modeling.transfers import to_device
from fovea.telemetry import FailureKind, count_failure
from llm_service import metrics
from llm_service.engine.errors import fail, internal_error, overflow_error, to_service_error
from llm_service.engine.prefill_queue import Chunk, PrefillQueue
from llm_service.engine.runner import ChunkedPrefill, Inputs, Runner
from llm_service.engine.sequence import Sequence
from llm_service.engine.token_choice import NOT_FINITE, TokenChoice
from llm_service.engine.token_logprobs import ChosenLogprobs, select_logprobs
from llm_service.engine.token_reads import TokenRead

__all__ = ["RunningBatch"]

log = logging.getLogger(__name__)


class RunningBatch(Generic[Inputs]):
    """The admitted sequences of one runner, until their last token is read.

    Where reads are deferred, a step is launched before the tokens of the step before are read. Detokenizing and events
    then take place while the device computes. A sequence that ends by an end token or a stop string then has one token
    more under way, which is dropped.

    Args:
        runner: Runner of the forward passes.
        prepare: Function from a sequence to the inputs that the runner prefills.
        choice: Choice of the next tokens.
        release: Function that is called with each sequence after its end, for what was reserved at its admission.
        chunked_prefill: Prefill of long prompts in chunks; None to prefill all prompts whole.
        defers_reads: Whether the tokens of a step are read after the launch of the next one.
    """

    def __init__(
        self,
        runner: Runner[Inputs],
        prepare: Callable[[Sequence], Inputs],
        choice: TokenChoice,
        release: Callable[[Sequence], object] = lambda _: None,
        *,
        chunked_prefill: ChunkedPrefill[Inputs] | None = None,
        defers_reads: bool = False,
    ) -> None:
        self._runner = runner
        self._prepare = prepare
        self._choice = choice
        self._release = release
        self._chunked_prefill = chunked_prefill
        self._defers_reads = defers_reads
        self._admitted: deque[Sequence] = deque()
        self._prefills: PrefillQueue[_Prepared[Inputs]] = PrefillQueue()
        self._decoding: list[Sequence] = []  # in the runner's order
        self._running: dict[Sequence, None] = {}  # an ordered set, in order of admission
        self._reads: deque[TokenRead] = deque()
        self._last_tokens: list[tuple[list[Sequence], Tensor]] = []  # of all that decode, on the device

    def __len__(self) -> int:
        return len(self._running)

    def admit(self, waiting: Iterable[Sequence]) -> None:
        """Adds sequences, which are prefilled in this order."""
        for sequence in waiting:
            sequence.admit()
            self._running[sequence] = None
            self._admitted.append(sequence)

    def _prepare_admitted(self) -> None:
        """Computes the inputs of admitted sequences. A failure ends only its sequence."""
        while self._admitted:
            sequence = self._admitted.popleft()
            try:
                prepared = _Prepared(sequence, self._prepare(sequence))
            except Exception as error:
                log.exception("the inputs of a sequence cannot be computed")
                self._fail_one(sequence, to_service_error(error))
            else:
                self._prefills.push(prepared, prepared.inputs.length)

    @property
    def is_decoding(self) -> bool:
        """Whether sequences decode."""
        return bool(self._decoding)

    def prefill(self, *, is_limited: bool) -> None:
        """Runs the next prompts, or the next chunk of one. The last token of a prompt gives the answer's first one.

        If the prefill of several prompts fails, each prompt is prefilled alone. A failing prompt thus ends only its own
        sequence.

        Args:
            is_limited: Whether long prompts are run in chunks, because sequences decode that would wait for them.
        """
        self._prepare_admitted()
        limited = self._chunked_prefill if is_limited else None
        work = self._prefills.next_work(None if limited is None else limited.max_prefill_tokens)
        if work.chunk is not None:
            self._prefill_chunk(work.chunk)
        elif work.whole and (error := self._try_prefill(work.whole)) is not None:
            self._retry_prefill(work.whole, error)

    def _retry_prefill(self, prepared: list[_Prepared[Inputs]], error: ServiceError) -> None:
        # Not inside an `except` block, whose exception would keep the tensors of the failed attempt alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(prepared) == 1:
            self._fail_one(prepared[0].sequence, error)
            return
        count_failure(FailureKind.PREFILL_SPLIT)
        for one in prepared:
            if (alone := self._try_prefill([one])) is not None:
                self._fail_one(one.sequence, alone)

    def _try_prefill(self, prepared: list[_Prepared[Inputs]]) -> ServiceError | None:
        """Prefills sequences together and launches the choice of their first token; returns the error of a failure."""
        try:
            logits = self._runner.prefill([one.inputs for one in prepared])
        except Exception as error:
            log.exception("prefill of %d sequences failed", len(prepared))
            return to_service_error(error)
        self._begin_decoding([one.sequence for one in prepared], logits)
        return None

    def _prefill_chunk(self, chunk: Chunk[_Prepared[Inputs]]) -> None:
        assert self._chunked_prefill is not None, "without a limit, prompts are prefilled whole"
        try:
            logits = self._chunked_prefill.prefill_chunk(chunk.prompt.inputs, chunk.start, chunk.end)
        except Exception as error:
            log.exception("prefill of a chunk of %d tokens failed", chunk.end - chunk.start)
            self._fail_one(chunk.prompt.sequence, to_service_error(error))
            return
        if chunk.is_last:
            self._begin_decoding([chunk.prompt.sequence], logits)

    def _begin_decoding(self, sequences: list[Sequence], logits: Tensor) -> None:
        self._decoding += sequences
        logprobs = {
            sequence: torch.log_softmax(sequence_logits, dim=-1)
            for sequence, sequence_logits in zip(sequences, logits, strict=True)
            if sequence.request.first_token_logprobs
        }
        self._last_tokens.append((sequences, self._choose(sequences, logits, logprobs)))
        self._end_launch()

    def decode(self) -> None:
        """Launches a decoding step of all sequences that are prefilled."""
        if self._decoding:
            sequences = list(self._decoding)
            metrics.BATCH_SIZE.observe(len(sequences))
            logits = self._runner.decode(self._last_token_ids())
            self._last_tokens = [(sequences, self._choose(sequences, logits))]
            self._end_launch()

    def _last_token_ids(self) -> Tensor:
        """[B] ids of the last tokens of all that decode, on the device."""
        sequences = [sequence for group, _ in self._last_tokens for sequence in group]
        ids = (
            torch.cat([ids for _, ids in self._last_tokens]) if len(self._last_tokens) > 1 else self._last_tokens[0][1]
        )
        if sequences != self._decoding:
            index_of = {sequence: i for i, sequence in enumerate(sequences)}
            index = torch.tensor([index_of[sequence] for sequence in self._decoding])
            ids = ids.index_select(0, to_device(index, ids.device))
        return ids.clamp(min=0)  # a token that is not finite has no id, and ends its sequence once it is read

    def _choose(
        self, sequences: list[Sequence], logits: Tensor, logprobs: dict[Sequence, Tensor] | None = None
    ) -> Tensor:
        ids = self._choice(sequences, logits)
        num_top = [one.request.top_logprobs for one in sequences if one.request.top_logprobs is not None]
        selected = select_logprobs(logits, ids, max(num_top)) if num_top else None
        self._reads.append(TokenRead(sequences, ids, logprobs or {}, selected))
        for sequence in sequences:
            sequence.num_chosen += 1
        return ids

    def _end_launch(self) -> None:
        """Reads at once unless reads are deferred, and ends the decoding of sequences that have all their tokens."""
        if not self._defers_reads:
            self._read(keep_last=False)
        self._stop_decoding({sequence for sequence in self._decoding if sequence.exhausted})

    def read(self) -> None:
        """Gives the tokens that were chosen to their sequences, and removes those that have ended.

        While sequences decode, the tokens that were launched last are left for the next call.
        """
        self._read(keep_last=self.is_decoding)

    def _read(self, *, keep_last: bool) -> None:
        while len(self._reads) > keep_last:
            for sequence, token_id, logprobs in self._reads.popleft():
                if sequence in self._running:
                    self._take_token(sequence, token_id, logprobs)

    def _take_token(self, sequence: Sequence, token_id: int, logprobs: ChosenLogprobs | None) -> None:
        """Gives a token to its sequence, or drops it if the sequence has ended, which is removed with its last one."""
        sequence.num_read += 1
        if not sequence.finished:
            _append(sequence, token_id, logprobs)
        elif token_id == NOT_FINITE:
            sequence.must_erase_slot = True
        if sequence.finished:
            self._stop_decoding([sequence])
            if sequence.num_read == sequence.num_chosen:
                self._remove([sequence])

    def remove_aborted(self) -> None:
        """Removes sequences whose caller has left or whose deadline has passed."""
        aborted = {sequence for sequence in self._running if sequence.aborted and not sequence.finished}
        count_failure(FailureKind.GENERATION_ABORTED, len(aborted))
        self._remove(aborted)

    def fail(self, error: ServiceError | None = None) -> None:
        """Ends and removes all sequences with an error; the default is an internal error."""
        failed = list(self._running)
        fail(failed, error or internal_error())
        for sequence in failed:
            sequence.must_erase_slot = True  # also of one whose answer is complete, as its last token is not read
        self._reads.clear()
        self._runner.clear()
        self._decoding.clear()
        self._remove(failed)

    def _fail_one(self, sequence: Sequence, error: ServiceError) -> None:
        fail([sequence], error)
        self._remove([sequence])

    def _remove(self, sequences: abc.Collection[Sequence]) -> None:
        if not sequences:
            return
        self._stop_decoding(sequences)
        self._admitted = deque(sequence for sequence in self._admitted if sequence not in sequences)
        self._prefills.remove(lambda prepared: prepared.sequence in sequences)
        for sequence in sequences:
            del self._running[sequence]
        # Last: if a release fails, all sequences are already removed.
        for sequence in sequences:
            self._choice.forget(sequence)
            self._release(sequence)

    def _stop_decoding(self, sequences: abc.Collection[Sequence]) -> None:
        kept = [i for i, sequence in enumerate(self._decoding) if sequence not in sequences]
        if len(kept) < len(self._decoding):
            self._runner.keep(kept)
            self._decoding = [self._decoding[i] for i in kept]
        if not self._decoding:
            self._last_tokens.clear()  # else ended sequences stay in memory


@dataclass(frozen=True, eq=False)
class _Prepared(Generic[Inputs]):
    """An admitted sequence and its inputs for the runner."""

    sequence: Sequence
    inputs: Inputs


def _append(sequence: Sequence, token_id: int, logprobs: ChosenLogprobs | None) -> None:
    if token_id == NOT_FINITE:
        fail([sequence], _not_finite_error(sequence))
        return
    try:
        sequence.append_token(token_id, logprobs)
    except Exception as error:
        log.exception("the next token of a sequence failed")
        fail([sequence], to_service_error(error))


def _not_finite_error(sequence: Sequence) -> ServiceError:
    if sequence.request.prompt.visual_tokens:
        return overflow_error()
    return InternalError("the model produced numbers that are not finite")
