"""One request on its way through the engine: written by the model thread, read by the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import cached_property

import torch
from tokenizers import Tokenizer

from fovea.errors import DeadlineExceeded, ServiceError
from fovea.telemetry import TIME_TO_FIRST_TOKEN_SECONDS
from llm_service.detokenizer import IncrementalDetokenizer
from llm_service.engines.base import Delta, Done, GenerationRequest, GenerationTiming
from llm_service.pruners.plan import PruningPlan
from llm_service.sampling import make_generator
from llm_service.stopping import StopStrings

__all__ = ["Row"]


class Row(AsyncIterator[Delta | Done]):
    """A `Generation` and the state that its decoding needs. Make it on the event loop that reads it.

    Args:
        request: What to generate.
        tokenizer: Turns ids into text.
        eos_token_ids: Any of them ends the answer.
        max_model_len: Positions of prompt and answer together.
        plan: What is pruned inside the model; None for nothing.
        trims_answer: White space before the first word is left out (`VisualSide.trims_answer`).
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
    ) -> None:
        self.request = request
        self.plan = plan
        self.ended = False
        self.token_ids: list[int] = []
        self.first_token_logprobs: list[float] = []
        self.cross_attention: list[float] = []
        self.max_tokens = min(request.sampling.max_tokens, max_model_len - request.prompt.num_tokens)
        self._eos_token_ids = eos_token_ids
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        self._stop = StopStrings(request.sampling.stop)
        self._begun = not trims_answer
        self._cancelled = False
        self._on_cancel: Callable[[], object] | None = None
        self._arrived = self._admitted = self._first_token = time.perf_counter()
        self._loop = asyncio.get_running_loop()
        # At most one delta a token, and the end: the model never waits for a slow reader.
        self._events: asyncio.Queue[Delta | Done | ServiceError] = asyncio.Queue(maxsize=self.max_tokens + 2)
        self._exhausted = False

    # The event loop's side.

    async def __anext__(self) -> Delta | Done:
        if self._exhausted:
            raise StopAsyncIteration
        try:
            # The clock of asyncio is time.monotonic, as that of the deadline.
            async with asyncio.timeout_at(self.request.deadline):
                event = await self._events.get()
        except TimeoutError:
            self.cancel()
            event = DeadlineExceeded("the answer was not finished within the deadline")
        self._exhausted = not isinstance(event, Delta)
        if isinstance(event, ServiceError):
            raise event
        return event

    def cancel(self) -> None:
        """Frees the row before the next token."""
        self._cancelled = True
        if self._on_cancel is not None:
            self._on_cancel()

    # The model thread's side.

    def when_cancelled(self, callback: Callable[[], object]) -> None:
        """Has `callback` called, from any thread and perhaps more than once, when nobody reads any more."""
        self._on_cancel = callback
        if self._cancelled:
            callback()

    @cached_property
    def generator(self) -> torch.Generator:
        """Its own source of randomness."""
        return make_generator(self.request.sampling)

    @property
    def layer_by_layer(self) -> bool:
        """Its prefill must stop between layers."""
        return self.plan is not None or self.request.cross_attention is not None

    @property
    def departed(self) -> bool:
        """Nobody waits for the answer any more."""
        return self._cancelled or time.monotonic() >= self.request.deadline

    @property
    def age_s(self) -> float:
        """Seconds since arrival."""
        return time.perf_counter() - self._arrived

    def admit(self) -> None:
        """The row has left the queue."""
        self._admitted = time.perf_counter()

    def accept(self, token_id: int) -> None:
        """Takes the next token: emits the text that it completes, and the end if it is one."""
        if not self.token_ids:
            self._first_token = time.perf_counter()
            TIME_TO_FIRST_TOKEN_SECONDS.observe(self._first_token - self._arrived)
        self.token_ids.append(token_id)
        eos = token_id in self._eos_token_ids
        text = "" if eos else self._until_stop(self._detokenizer.push(token_id))
        last = eos or self._stop.found or len(self.token_ids) == self.max_tokens
        if last:
            text += self._until_stop(self._detokenizer.flush()) + self._stop.flush()
        if text:
            self._emit(Delta(text))
        if last:
            self.ended = True
            self._emit(self._done(eos))

    def _until_stop(self, text: str) -> str:
        """What of `text` may go out."""
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        return self._stop.push(text)

    def fail(self, error: ServiceError) -> None:
        """Ends the row with an error."""
        self.ended = True
        self._emit(error)

    def _done(self, eos: bool) -> Done:
        def since_arrival(moment: float) -> float:
            return (moment - self._arrived) * 1e3

        return Done(
            finish_reason="stop" if eos or self._stop.found else "length",
            prompt_tokens=self.request.prompt.num_tokens,
            token_ids=self.token_ids,
            completion_tokens=len(self.token_ids) - eos,
            timing=GenerationTiming(
                queue_ms=since_arrival(self._admitted),
                time_to_first_token_ms=since_arrival(self._first_token),
                generate_ms=since_arrival(time.perf_counter()),
            ),
            first_token_logprobs=self.first_token_logprobs,
            visual_tokens_by_layer=() if self.plan is None else self.plan.visual_tokens,
            cross_attention=self.cross_attention,
        )

    def _emit(self, event: Delta | Done | ServiceError) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the reader's event loop is closed
            self._cancelled = True
