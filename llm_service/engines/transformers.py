"""The engine that runs a model of transformers in this process, on a thread of its own, with continuous batching.

Requests join the batch between two tokens and leave it when they end, so a short answer never waits for a long one.
`TransformersEngine.step` is the table of contents. Rows whose prefill stops between layers, to prune or to look at
attention, make a batch of their own beside the others, whose path they do not touch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import torch
from tokenizers import Tokenizer

from fovea.errors import DeadlineExceeded, InvalidRequest
from fovea.telemetry import FAILURES
from llm_service.engines.base import Generation, GenerationRequest
from llm_service.engines.batch import Batch
from llm_service.engines.failures import fail, unavailable
from llm_service.engines.layout import num_prunable, prunable_rows, visual_layout
from llm_service.engines.pruned_prefill import Observation, PrunedInputs
from llm_service.engines.pruned_runner import PrunedRunner
from llm_service.engines.row import Row
from llm_service.engines.runner import ModelRunner
from llm_service.engines.waiting import WaitingQueue
from llm_service.models.base import ModelInputs, VisionLanguageModel
from llm_service.models.decoder import supports_layers
from llm_service.pruners import PRUNERS
from llm_service.pruners.base import AnyPruner
from llm_service.pruners.plan import PruningPlan, UnreachableBudget
from llm_service.pruners.schedule import scaled_layers

__all__ = ["TransformersEngine"]

log = logging.getLogger(__name__)

# Of 32: the first layer whose attention SparseVLM prunes by.
_OBSERVED_LAYER: Final = 2


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
        self._plain = Batch(ModelRunner(model), self._embed)
        self._pruned = Batch(PrunedRunner(model), self._embed_pruned) if supports_layers(model.causal_lm) else None
        self._stopping = threading.Event()
        self._on_death: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests in the batches."""
        return sum(map(len, self._batches))

    @property
    def _num_layers(self) -> int:
        count: int = self._model.causal_lm.config.num_hidden_layers
        return count

    @property
    def pruners(self) -> Mapping[str, AnyPruner]:
        """All, for a model whose layers can be run one by one."""
        return {} if self._pruned is None else PRUNERS

    def start(self, on_death: Callable[[], object] = lambda: None) -> None:
        """Starts the model thread."""
        self._on_death = on_death
        self._thread.start()

    def submit(self, request: GenerationRequest) -> Generation:
        """Queues a request; see `Engine.submit`."""
        self._check_cross_attention(request)
        plan = self._plan(request)
        row = Row(
            request,
            self._tokenizer,
            self._model.eos_token_ids,
            self._max_model_len,
            plan,
            trims_answer=self._model.trims_answer,
        )
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
        self._fail(waiting, "is shutting down")

    def _fail(self, waiting: Iterable[Row], what: str) -> None:
        error = unavailable(what)
        fail(waiting, error)
        for batch in self._batches:
            batch.fail(error)

    @property
    def _batches(self) -> list[Batch[Any]]:
        return [self._plain] if self._pruned is None else [self._plain, self._pruned]

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                if not self.num_running:
                    self._waiting.wait(self._max_batch_size, self._max_batch_delay_s)
                self.step()
        except Exception:
            log.critical("the model thread has died", exc_info=True)
            FAILURES.labels("engine_died").inc()
            self._fail(self._waiting.close(), "has lost its engine")
            self._on_death()

    @torch.inference_mode()
    def step(self) -> None:
        """One turn of the model: the newcomers get their first token, then everybody the next."""
        for batch in self._batches:
            self._attempt(batch, batch.drop_departed)
        newcomers = self._waiting.take(self._max_batch_size - self.num_running)
        if plain := [row for row in newcomers if not row.layer_by_layer]:
            self._attempt(self._plain, lambda: self._plain.prefill(plain))
        if pruned := [row for row in newcomers if row.layer_by_layer]:
            into = self._pruned
            assert into is not None, "`submit` lets nothing pass that cannot be run"
            self._attempt(into, lambda: into.prefill(pruned))
        for batch in self._batches:
            self._attempt(batch, batch.decode)

    def _attempt(self, batch: Batch[Any], action: Callable[[], None]) -> None:
        """A batch that fails fails alone."""
        try:
            action()
        except Exception:
            log.exception("a step with %d rows failed", len(batch))
            batch.fail()

    def _embed(self, row: Row) -> ModelInputs:
        return self._model.embed(row.request.prompt)

    def _embed_pruned(self, row: Row) -> PrunedInputs:
        prompt = row.request.prompt
        layout = visual_layout(prompt, self._model.visual_token_ids, self._model.device)
        return PrunedInputs(self._embed(row), layout, row.plan, self._observation(row))

    def _observation(self, row: Row) -> Observation | None:
        asked = row.request.cross_attention
        if asked is None:
            return None
        in_layout = prunable_rows(row.request.prompt, self._model.visual_token_ids)

        def tell(attention: torch.Tensor) -> None:
            rows = attention.new_zeros(len(in_layout))
            rows[torch.from_numpy(in_layout).to(rows.device)] = attention
            row.cross_attention = rows.tolist()

        layer = scaled_layers([_OBSERVED_LAYER], self._num_layers)[0] if asked.layer is None else asked.layer
        return Observation(layer, tell)

    def _check_cross_attention(self, request: GenerationRequest) -> None:
        if request.cross_attention is None:
            return
        if self._pruned is None:
            raise InvalidRequest(
                "this model cannot be looked at layer by layer; leave cross_attention out", param="cross_attention"
            )
        if not request.prompt.visual_tokens:
            raise InvalidRequest("cross_attention needs visual tokens to attend to", param="cross_attention")
        layer = request.cross_attention.layer
        if layer is not None and layer >= self._num_layers:
            raise InvalidRequest(
                f"cross_attention.layer is {layer}; 0 to {self._num_layers - 1} are accepted",
                param="cross_attention.layer",
            )

    def _plan(self, request: GenerationRequest) -> PruningPlan | None:
        if request.pruning is None:
            return None
        if self._pruned is None:
            raise InvalidRequest("this model cannot be pruned layer by layer; leave llm_pruner out", param="llm_pruner")
        num_visual = num_prunable(request.prompt, self._model.visual_token_ids)
        try:
            return request.pruning.pruner.plan(request.pruning.budget, num_visual, self._num_layers)
        except UnreachableBudget as error:
            raise InvalidRequest(str(error), param="llm_pruner") from error
