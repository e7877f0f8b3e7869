"""Engine that runs a transformers model on a thread of this process, with continuous batching.

Sequences are added to the batch between two decoding steps and removed when they finish, so short answers do not wait
for long ones. `TransformersEngine.step` is one step. Sequences that run layer by layer, to prune or to report
attention, have a batch of their own. The other sequences do not run that code.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as SequenceOf
from typing import Any, Final

import torch
from tokenizers import Tokenizer

from fovea.errors import DeadlineExceeded, InvalidRequest
from fovea.telemetry import FailureKind, count_failure
from llm_service import metrics
from llm_service.engine.answer_times import AnswerTimes
from llm_service.engine.base import Generation, GenerationRequest
from llm_service.engine.errors import fail, unavailable
from llm_service.engine.launching import Launching
from llm_service.engine.layered_requests import attention_probe, check_cross_attention, pruning_plan
from llm_service.engine.model_runner import ModelRunner
from llm_service.engine.pruned_model_runner import PrunedModelRunner, PrunedSlotInputs
from llm_service.engine.pruned_prefill import PrunedInputs
from llm_service.engine.runner import ChunkedPrefill
from llm_service.engine.running_batch import RunningBatch
from llm_service.engine.sequence import Sequence
from llm_service.engine.slot_cache import SlotCache
from llm_service.engine.slot_prefill import SlotInputs
from llm_service.engine.slots import Slot, SlotAdmission, SlotClass, SlotPool
from llm_service.engine.token_bytes import TokenBytes
from llm_service.engine.token_choice import TokenChoice
from llm_service.engine.visual_layout import visual_layout
from llm_service.engine.waiting_queue import WaitingQueue
from llm_service.models.base import VisionLanguageModel
from llm_service.models.decoder import runs_layer_by_layer
from llm_service.pruners import PRUNERS
from llm_service.pruners.base import AnyLlmPruningMethod
from llm_service.sampling import SAMPLING_PARAMETERS

__all__ = ["TransformersEngine"]

log = logging.getLogger(__name__)


class TransformersEngine:
    """An `LLMEngine` on transformers.

    Args:
        model: Language model and visual embedder of a checkpoint.
        tokenizer: Tokenizer of the same checkpoint.
        eos_token_ids: Ids that end an answer.
        max_model_len: Maximum number of positions of prompt and answer together; a longer answer is cut.
        max_batch_size: Maximum number of running sequences.
        max_batch_delay_ms: Maximum time in milliseconds that an idle engine waits for further requests after the first.
        max_queue_size: Maximum number of waiting sequences.
        max_queue_time_s: Longest estimated queue time of an accepted sequence, in seconds.
        slot_classes: Slots of the key-value cache, in ascending order of length.
        max_prefill_tokens: Maximum number of prompt tokens that are prefilled between two decoding steps.
        launching: Way to launch forward passes.
    """

    name: Final = "transformers"

    def __init__(
        self,
        model: VisionLanguageModel,
        tokenizer: Tokenizer,
        *,
        eos_token_ids: frozenset[int],
        max_model_len: int,
        max_batch_size: int,
        max_batch_delay_ms: float,
        max_queue_size: int,
        max_queue_time_s: float = math.inf,
        slot_classes: SequenceOf[SlotClass],
        max_prefill_tokens: int,
        launching: Launching,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._token_bytes = TokenBytes(tokenizer)
        self._eos_token_ids = eos_token_ids
        self._max_model_len = max_model_len
        self._max_batch_size = max_batch_size
        self._max_batch_delay_s = max_batch_delay_ms / 1e3
        self._slots = SlotPool(slot_classes)
        self._answer_times = AnswerTimes()
        self._waiting = WaitingQueue(
            max_queue_size,
            max_queue_time_s=max_queue_time_s,
            answer_times=self._answer_times,
            lane_of=lambda sequence: self._slots.class_of(sequence.num_positions),
        )
        self._cache = SlotCache.for_model(model, slot_classes)
        runner = ModelRunner(model, self._cache, few_sizes=launching.few_sizes)
        if launching.capture is not None:
            runner.capture_graphs(launching.capture)
        self._plain_batch = RunningBatch(
            runner,
            self._embed_for_slot,
            TokenChoice(max_batch_size, model.device),
            self._release_slot,
            chunked_prefill=ChunkedPrefill(max_prefill_tokens, runner.prefill_chunk),
            defers_reads=launching.defers_reads,
        )
        self._layered_batch = (
            RunningBatch(
                PrunedModelRunner(model, self._cache),
                self._embed_layered,
                TokenChoice(max_batch_size, model.device),
                self._release_slot,
                defers_reads=launching.defers_reads,
            )
            if runs_layer_by_layer(model.causal_lm)
            else None
        )
        self._stopping = threading.Event()
        self._on_death: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    @property
    def num_waiting(self) -> int:
        """Number of sequences in the queue."""
        return len(self._waiting)

    @property
    def queue_time_s(self) -> float:
        """See `WaitingQueue.queue_time_s`."""
        return self._waiting.queue_time_s

    @property
    def num_running(self) -> int:
        """Number of sequences in the batches."""
        return sum(map(len, self._batches))

    @property
    def pruners(self) -> Mapping[str, AnyLlmPruningMethod]:
        """All pruning methods if the model can run layer by layer; otherwise none."""
        return {} if self._layered_batch is None else PRUNERS

    @property
    def sampling_parameters(self) -> tuple[str, ...]:
        """All parameters."""
        return SAMPLING_PARAMETERS

    def start(self, on_death: Callable[[], object] = lambda: None) -> None:
        """Starts the model thread."""
        self._on_death = on_death
        metrics.KV_CACHE_BYTES.set(self._slots.num_positions * self._cache.position_bytes)
        metrics.KV_CACHE_USAGE.set_function(lambda: self._slots.num_taken / self._slots.num_positions)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> Generation:
        """Queues a request; see `LLMEngine.submit`."""
        check_cross_attention(request, self._model)
        plan = pruning_plan(request, self._model)
        sequence = Sequence(
            request,
            self._tokenizer,
            self._eos_token_ids,
            self._max_model_len,
            plan,
            trims_answer=self._model.trims_answer,
            token_bytes=self._token_bytes,
        )
        if sequence.aborted:
            raise DeadlineExceeded("the deadline passed before the request could be queued")
        self._check_fits_slot(sequence)
        self._waiting.push(sequence)
        return sequence

    def stop(self) -> None:
        """Ends all sequences with Unavailable and joins the model thread."""
        self._stopping.set()
        waiting = self._waiting.close()
        if self._thread.is_alive():
            self._thread.join()
        self._fail_all(waiting, "is shutting down")

    def _fail_all(self, waiting: Iterable[Sequence], reason: str) -> None:
        error = unavailable(reason)
        fail(waiting, error)
        for batch in self._batches:
            batch.fail(error)

    @property
    def _batches(self) -> list[RunningBatch[Any]]:
        return [self._plain_batch] if self._layered_batch is None else [self._plain_batch, self._layered_batch]

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                if not self.num_running:
                    self._waiting.wait(self._max_batch_size, self._max_batch_delay_s)
                self.step()
        except Exception:
            log.critical("the model thread has died", exc_info=True)
            count_failure(FailureKind.ENGINE_DIED)
            try:
                self._fail_all(self._waiting.close(), "has lost its engine")
            finally:
                self._on_death()

    @torch.inference_mode()
    def step(self) -> None:
        """Admits waiting sequences up to the maximum batch size, prefills, then decodes one token of every sequence.

        A long prompt is prefilled in chunks, one in each step while other sequences decode.
        """
        for batch in self._batches:
            self._attempt(batch, batch.remove_aborted)
        admission = SlotAdmission(self._slots)
        admitted = self._waiting.pop(
            self._max_batch_size - self.num_running, lambda sequence: self._reserve_slot(sequence, admission)
        )
        self._plain_batch.admit(sequence for sequence in admitted if not sequence.runs_layer_by_layer)
        if self._layered_batch is not None:  # else `submit` refuses requests that run layer by layer
            self._layered_batch.admit(sequence for sequence in admitted if sequence.runs_layer_by_layer)
        is_decoding = any(batch.is_decoding for batch in self._batches)
        for batch in self._batches:
            self._attempt(batch, functools.partial(batch.prefill, is_limited=is_decoding))
            self._attempt(batch, batch.decode)
        for batch in self._batches:
            self._attempt(batch, batch.read)

    def _attempt(self, batch: RunningBatch[Any], action: Callable[[], None]) -> None:
        """Runs an action of a batch. If it fails, all sequences of this batch fail, but no others."""
        try:
            action()
        except Exception:
            log.exception("a step with %d sequences failed", len(batch))
            batch.fail()

    def _reserve_slot(self, sequence: Sequence, admission: SlotAdmission) -> bool:
        """Whether a sequence can be admitted; reserves its slot."""
        sequence.slot = admission.take(sequence.num_positions)
        return sequence.slot is not None

    def _release_slot(self, sequence: Sequence) -> None:
        self._answer_times.observe(sequence)
        slot, sequence.slot = sequence.slot, None
        if slot is not None:
            # Only a sequence that ended cleanly has left no numbers that are not finite.
            if sequence.failed or sequence.must_erase_slot or not sequence.finished:
                self._cache.erase(slot, sequence.num_written)
            self._slots.release(slot)

    def _check_fits_slot(self, sequence: Sequence) -> None:
        longest = self._slots.longest
        if sequence.num_positions <= longest:
            return
        num_tokens = sequence.request.prompt.num_tokens
        larger = ", or start the service with a larger --kv-cache-gib" if longest < self._max_model_len else ""
        raise InvalidRequest(
            f"a prompt of {num_tokens} tokens with max_tokens {sequence.max_tokens} takes {sequence.num_positions}"
            f" positions of the key-value cache, whose longest slot has {longest}; ask for fewer tokens{larger}",
            param="max_tokens" if num_tokens <= longest else "input_ids",
        )

    def _embed_for_slot(self, sequence: Sequence) -> SlotInputs:
        return SlotInputs(self._model.embed(sequence.request.prompt), _slot_of(sequence))

    def _embed_layered(self, sequence: Sequence) -> PrunedSlotInputs:
        prompt = sequence.request.prompt
        layout = visual_layout(prompt, self._model.visual_token_ids, self._model.device)
        inputs = PrunedInputs(self._model.embed(prompt), layout, sequence.plan, attention_probe(sequence, self._model))
        return PrunedSlotInputs(inputs, _slot_of(sequence), sequence.max_tokens - 1)


def _slot_of(sequence: Sequence) -> Slot:
    assert sequence.slot is not None, "`step` admits no sequence without a slot"
    return sequence.slot
