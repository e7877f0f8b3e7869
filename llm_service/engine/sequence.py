"""A request being decoded: written by the model thread, read by the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import cached_property

import torch
from tokenizers import Tokenizer

from fovea import tracing
from fovea.errors import DeadlineExceeded, ServiceError
from llm_service import metrics
from llm_service.engine.base import Delta, Done, GenerationRequest, GenerationTiming
from llm_service.engine.detokenizer import IncrementalDetokenizer
from llm_service.engine.held_logprobs import HeldLogprobs
from llm_service.engine.slots import Slot
from llm_service.engine.stop_strings import StopStrings
from llm_service.engine.token_bytes import TokenBytes
from llm_service.engine.token_logprobs import ChosenLogprobs
from llm_service.pruners.plan import PruningPlan
from llm_service.sampling import make_generator

__all__ = ["Sequence"]


class Sequence(AsyncIterator[Delta | Done]):
    """A `Generation` and the state of its decoding. Must be created on the event loop that reads it.

    Args:
        request: The validated request.
        tokenizer: Tokenizer of the checkpoint.
        eos_token_ids: Ids that end the answer.
        max_model_len: Positions of prompt and answer together.
        plan: Pruning inside the model; None for none.
        trims_answer: Flag: strip white space before the first word (`VisualEmbedder.trims_answer`).
        token_bytes: Bytes of the tokenizer's tokens, which sequences may share; None for its own.

    Attributes:
        request: The validated request.
        plan: Pruning inside the model; None for none.
        finished: Flag: the answer is complete or has failed.
        failed: Flag: the sequence has ended with an error.
        must_erase_slot: Flag: the slot may hold numbers that are not finite, although the answer is complete.
        slot: Slot of the key-value cache; None before admission, after the end, and for caches without slots.
        token_ids: Ids generated so far.
        num_chosen: Number of tokens chosen on the device.
        num_read: Number of those that have been read; one behind the end of the answer is not in `token_ids`.
        first_token_logprobs: [V] log-probabilities of the first token, if requested.
        cross_attention: [N] attention weights, if requested.
        timing: Times of the complete answer; None before its end, and for one that failed.
        max_tokens: Most tokens to generate, limited by the context.
    """

    def __init__(
        self,
        request: GenerationRequest,
        tokenizer: Tokenizer,
        eos_token_ids: frozenset[int],
        max_model_len: int,
        plan: PruningPlan | None = None,
        *,
        trims_answer: bool = False,
        token_bytes: TokenBytes | None = None,
    ) -> None:
        self.request = request
        self.plan = plan
        self.finished = False
        self.failed = False
        self.must_erase_slot = False
        self.slot: Slot | None = None
        self.token_ids: list[int] = []
        self.num_chosen = 0
        self.num_read = 0
        self.first_token_logprobs: list[float] = []
        self.cross_attention: list[float] = []
        self.timing: GenerationTiming | None = None
        self.max_tokens = min(request.sampling.max_tokens, max_model_len - request.prompt.num_tokens)
        self._eos_token_ids = eos_token_ids
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        self._stop = StopStrings(request.sampling.stop)
        self._token_bytes = token_bytes or TokenBytes(tokenizer)
        self._held_logprobs = HeldLogprobs()
        self._text_started = not trims_answer
        self._abort_requested = False
        self._abort_callback: Callable[[], object] | None = None
        self._arrival_time = self._admission_time = self._first_token_time = time.perf_counter()
        self._loop = asyncio.get_running_loop()
        self._span = tracing.current()
        # At most one delta for each token, plus the end: the model thread never waits for a slow reader.
        self._events: asyncio.Queue[Delta | Done | ServiceError] = asyncio.Queue(maxsize=self.max_tokens + 2)
        self._exhausted = False

    # Called on the event loop.

    async def __anext__(self) -> Delta | Done:
        if self._exhausted:
            raise StopAsyncIteration
        try:
            # asyncio and the deadline share a clock, time.monotonic.
            async with asyncio.timeout_at(self.request.deadline):
                event = await self._events.get()
        except TimeoutError:
            self.abort()
            event = DeadlineExceeded("the answer was not finished within the deadline")
        self._exhausted = not isinstance(event, Delta)
        if isinstance(event, ServiceError):
            raise event
        return event

    def abort(self) -> None:
        """Ends the sequence before its next token."""
        self._abort_requested = True
        if self._abort_callback is not None:
            self._abort_callback()

    # Called on the model thread.

    def on_abort(self, callback: Callable[[], object]) -> None:
        """Sets a callback for `abort`; it may be called from any thread and more than once."""
        self._abort_callback = callback
        if self._abort_requested:
            callback()

    def draw(self) -> float:
        """Random number in [0, 1) for the next token."""
        return float(torch.rand((), dtype=torch.float64, generator=self._generator))

    @cached_property
    def _generator(self) -> torch.Generator:
        return make_generator(self.request.sampling)

    @property
    def exhausted(self) -> bool:
        """Flag: the last token that `max_tokens` permits has been chosen, whether or not it has been appended."""
        return self.num_chosen >= self.max_tokens

    @property
    def num_positions(self) -> int:
        """Most positions of the key-value cache: prompt and answer, of which the last token is never cached."""
        return self._num_prompt_positions + self.max_tokens - 1

    @property
    def num_written(self) -> int:
        """Most positions of the key-value cache that have been written so far."""
        return self._num_prompt_positions + self.num_chosen

    @property
    def _num_prompt_positions(self) -> int:
        copies = 1 if self.plan is None else self.plan.pruner.cached_copies
        return copies * self.request.prompt.num_tokens

    @property
    def runs_layer_by_layer(self) -> bool:
        """Flag: the prefill stops between layers, to prune or to report attention."""
        return self.plan is not None or self.request.cross_attention is not None

    @property
    def aborted(self) -> bool:
        """Flag: the caller has cancelled, or the deadline has passed."""
        return self._abort_requested or time.monotonic() >= self.request.deadline

    @property
    def age_s(self) -> float:
        """Seconds since arrival."""
        return time.perf_counter() - self._arrival_time

    def admit(self) -> None:
        """Records the end of the queue time."""
        self._admission_time = time.perf_counter()

    def append_token(self, token_id: int, logprobs: ChosenLogprobs | None = None) -> None:
        """Appends a generated token; emits the text that it completes, and `Done` with the last one.

        Args:
            token_id: Id of the token.
            logprobs: Log-probabilities in its place, if requested.
        """
        if not self.token_ids:
            self._first_token_time = time.perf_counter()
            metrics.TIME_TO_FIRST_TOKEN_SECONDS.observe(self._first_token_time - self._arrival_time)
            metrics.PREFILL_SECONDS.observe(self._first_token_time - self._admission_time)
            metrics.PROMPT_TOKENS.inc(self.request.prompt.num_tokens)
        metrics.GENERATION_TOKENS.inc()
        self.token_ids.append(token_id)
        is_end_token = token_id in self._eos_token_ids
        eos = is_end_token and not self.request.sampling.ignore_eos
        completed = "" if is_end_token else self._trim(self._detokenizer.push(token_id))
        if logprobs is not None and not eos:
            is_incomplete = not is_end_token and self._detokenizer.holds_back
            token_logprob = logprobs.of_token(token_id, self._token_bytes)
            self._held_logprobs.push(token_logprob, len(completed), is_incomplete=is_incomplete)
        text = self._stop.push(completed)
        last = eos or self._stop.found or len(self.token_ids) == self.max_tokens
        if last:
            text += self._stop.push(self._trim(self._detokenizer.flush())) + self._stop.flush()
        released = self._held_logprobs.release(len(text))
        if last and not self._stop.found:
            released += self._held_logprobs.release_all()
        if text or released:
            self._emit(Delta(text, released))
        if last:
            self.finished = True
            self._emit(self._done(eos))
            if len(self.token_ids) > 1:
                decode_s = time.perf_counter() - self._first_token_time
                metrics.TIME_PER_OUTPUT_TOKEN_SECONDS.observe(decode_s / (len(self.token_ids) - 1))

    def _trim(self, text: str) -> str:
        """Text without white space before the first word, if the family says so."""
        if not self._text_started:
            text = text.lstrip()
            self._text_started = bool(text)
        return text

    def fail(self, error: ServiceError) -> None:
        """Ends the sequence with an error."""
        self.finished = self.failed = True
        self._emit(error)

    def _done(self, eos: bool) -> Done:
        def ms_since_arrival(seconds: float) -> float:
            return (seconds - self._arrival_time) * 1e3

        ended_at = time.perf_counter()
        stages = {
            "queue": self._admission_time - self._arrival_time,
            "prefill": self._first_token_time - self._admission_time,
            "decode": ended_at - self._first_token_time,
        }
        tracing.record(self._span, stages, ended_at=ended_at)
        self.timing = GenerationTiming(
            queue_ms=ms_since_arrival(self._admission_time),
            time_to_first_token_ms=ms_since_arrival(self._first_token_time),
            generate_ms=ms_since_arrival(time.perf_counter()),
        )
        return Done(
            finish_reason="stop" if eos or self._stop.found else "length",
            prompt_tokens=self.request.prompt.num_tokens,
            token_ids=self.token_ids,
            completion_tokens=len(self.token_ids) - eos,
            timing=self.timing,
            first_token_logprobs=self.first_token_logprobs,
            visual_tokens_by_layer=() if self.plan is None else self.plan.visual_tokens,
            cross_attention=self.cross_attention,
        )

    def _emit(self, event: Delta | Done | ServiceError) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the reader's event loop is closed
            self._abort_requested = True
