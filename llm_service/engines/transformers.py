"""The engine that runs a model of transformers in this process, on a thread of its own, with continuous batching.

Requests join the batch between two tokens and leave it when they end, so a short answer never waits for a long one.
`TransformersEngine.step` is the table of contents.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Final

import torch
from tokenizers import Tokenizer

from fovea.errors import DeadlineExceeded, InternalError, InvalidRequest, ServiceError, Unavailable
from fovea.telemetry import FAILURES
from llm_service.engines.base import Generation, GenerationRequest
from llm_service.engines.row import Row
from llm_service.engines.runner import ModelRunner
from llm_service.engines.waiting import WaitingQueue
from llm_service.models.base import VisionLanguageModel
from llm_service.sampling import sample

__all__ = ["TransformersEngine"]

log = logging.getLogger(__name__)


class TransformersEngine:
    """An `Engine`.

    Args:
        model: The language side of a checkpoint.
        tokenizer: Of the same checkpoint.
        max_model_len: Positions of prompt and answer together; an answer is cut there.
        max_batch_size: Rows decoded together.
        max_batch_delay_ms: How long an idle model waits for a first batch to fill.
        max_queue_size: Requests that may wait for a row.
    """

    name: Final = "transformers"

    def __init__(
        self,
        model: VisionLanguageModel,
        tokenizer: Tokenizer,
        *,
        max_model_len: int,
        max_batch_size: int,
        max_batch_delay_ms: float,
        max_queue_size: int,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len
        self._max_batch_size = max_batch_size
        self._max_batch_delay_s = max_batch_delay_ms / 1e3
        self._waiting = WaitingQueue(max_queue_size)
        self._runner = ModelRunner(model)
        self._rows: list[Row] = []  # in the order of the runner's
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests in the batch."""
        return len(self._rows)

    def start(self) -> None:
        """Starts the model thread."""
        self._thread.start()

    def submit(self, request: GenerationRequest) -> Generation:
        """Queues a request; see `Engine.submit`."""
        row = Row(request, self._tokenizer, self._model.eos_token_ids, self._max_model_len)
        if row.departed:
            raise DeadlineExceeded("the deadline passed before the request could be queued")
        self._waiting.push(row)
        return row

    def stop(self) -> None:
        """Ends what is still under way with Unavailable; returns when the model thread has ended."""
        self._stopping.set()
        waiting = self._waiting.close()
        if self._thread.is_alive():
            self._thread.join()
        self._fail([*waiting, *self._rows], Unavailable("the LLM service is shutting down", retry_after_s=1.0))

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._rows:
                self._waiting.wait(self._max_batch_size, self._max_batch_delay_s)
            self.step()

    @torch.inference_mode()
    def step(self) -> None:
        """One turn of the model: the newcomers get their first token, then everybody the next."""
        try:
            self._drop_rows()
            if newcomers := self._waiting.take(self._max_batch_size - len(self._rows)):
                self._prefill(newcomers)
                self._drop_rows()
            if self._rows:
                self._decode()
                self._drop_rows()
        except Exception:
            log.exception("a step with %d rows failed", len(self._rows))
            self._fail(self._rows, _failed())
            self._rows = []
            self._runner.clear()

    def _prefill(self, newcomers: list[Row]) -> None:
        """Takes rows into the batch. Should their prompts fail, those who decode already go on."""
        for row in newcomers:
            row.admit()
        try:
            logits = self._runner.prefill([self._model.embed(row.request.prompt) for row in newcomers])
        except Exception:
            log.exception("prefill of %d rows failed", len(newcomers))
            self._fail(newcomers, _failed())
            return
        self._rows += newcomers
        for row, row_logits in zip(newcomers, logits, strict=True):
            if row.request.first_token_logprobs:
                row.first_token_logprobs = torch.log_softmax(row_logits, dim=-1).tolist()
        self._accept(newcomers, logits)

    def _decode(self) -> None:
        """Gives every row its next token."""
        self._accept(self._rows, self._runner.decode([row.token_ids[-1] for row in self._rows]))

    def _accept(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        """Gives each row its next token.

        Args:
            rows: B of them.
            logits: [B, V].
        """
        finite = logits.isfinite().all(dim=-1).tolist()
        largest = logits.argmax(dim=-1).tolist()
        for i, row in enumerate(rows):
            sampling = row.request.sampling
            if not finite[i]:
                self._fail([row], _not_finite(row))
            elif sampling.temperature == 0:
                row.accept(largest[i])
            else:
                row.accept(sample(logits[i], sampling, row.generator))

    def _drop_rows(self) -> None:
        """Rows that have ended, and those whose caller has left, make room."""
        running = [i for i, row in enumerate(self._rows) if not row.ended]
        staying = [i for i in running if not self._rows[i].departed]
        FAILURES.labels("generation_abandoned").inc(len(running) - len(staying))
        if len(staying) < len(self._rows):
            self._runner.keep(staying)
            self._rows = [self._rows[i] for i in staying]

    def _fail(self, rows: Sequence[Row], error: ServiceError) -> None:
        for row in rows:
            if not row.ended:
                row.fail(error)


def _failed() -> ServiceError:
    return InternalError("the model failed on this request; the log of the LLM service tells why")


def _not_finite(row: Row) -> ServiceError:
    if row.request.prompt.visual_tokens:
        return InvalidRequest(
            "the visual tokens drive the model beyond the numbers it can represent; send features as the vision tower"
            " of this checkpoint makes them",
            param="visual_tokens",
        )
    return InternalError("the model produced numbers that are not finite")
