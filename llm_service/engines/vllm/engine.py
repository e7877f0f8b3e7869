"""The engine that has vLLM run the language model, in processes of vLLM's own.

A thread with an event loop talks to vLLM. A request waits in our bounded queue until one of `max_batch_size` places is
free, then is a task on that loop: projected, spliced, generated. vLLM batches what is in its hands continuously.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
from tokenizers import Tokenizer
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from fovea.errors import DeadlineExceeded, InternalError, InvalidRequest, Overloaded, ServiceError
from fovea.modeling.errors import CheckpointError
from fovea.telemetry import FAILURES
from llm_service.engines.base import Generation, GenerationRequest
from llm_service.engines.failures import defect, fail, unavailable
from llm_service.engines.row import Row
from llm_service.engines.vllm.inputs import engine_input
from llm_service.engines.vllm.sampling import decoding, first_token
from llm_service.engines.waiting import WaitingQueue
from llm_service.models.base import VisualSide
from llm_service.prompts import Prompt, VisualTokens
from llm_service.pruners.base import AnyPruner
from llm_service.vllm_plugin.orphans import PARENT_VARIABLE

__all__ = ["VllmEngine"]

log = logging.getLogger(__name__)

# How often an idle engine looks whether vLLM's processes still live; with requests under way it learns at once.
_LOOK_S: Final = 1.0
_MAX_ERROR_CHARS: Final = 500


class VllmEngine:
    """An `Engine`. Made, it has loaded the model and its processes run.

    Args:
        visual: What the family does with visual tokens before the language model.
        tokenizer: Of the same checkpoint.
        arguments: Of vLLM, made by `engine_arguments`.
        max_model_len: Positions of prompt and answer together; an answer is cut there.
        max_batch_size: Requests in vLLM's hands.
        max_queue_size: Requests that may wait for a place.

    Raises:
        CheckpointError: vLLM does not start.
    """

    name: Final = "vllm"

    def __init__(
        self,
        visual: VisualSide,
        tokenizer: Tokenizer,
        arguments: AsyncEngineArgs,
        *,
        max_model_len: int,
        max_batch_size: int,
        max_queue_size: int,
    ) -> None:
        self._visual = visual
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len
        self._max_batch_size = max_batch_size
        self._waiting = WaitingQueue(max_queue_size)
        self._running: set[asyncio.Task[None]] = set()
        self._projecting = concurrent.futures.ThreadPoolExecutor(1, "project")
        self._on_death: Callable[[], object] = lambda: None
        self._stopping = threading.Event()
        loaded: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, args=(arguments, loaded), name="model", daemon=True)
        self._thread.start()
        loaded.result()

    @property
    def num_waiting(self) -> int:
        """Requests in our queue."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests in vLLM's hands."""
        return len(self._running)

    @property
    def pruners(self) -> Mapping[str, AnyPruner]:
        """None: nobody looks between vLLM's layers."""
        return {}

    def start(self, on_death: Callable[[], object] = lambda: None) -> None:
        """Serves what is submitted, and has served it since it was made; from here on it tells of its death."""
        self._on_death = on_death
        self._call(self._started.set)

    def submit(self, request: GenerationRequest) -> Generation:
        """Queues a request; see `Engine.submit`."""
        _check_features(request)
        row = Row(
            request,
            self._tokenizer,
            self._visual.eos_token_ids,
            self._max_model_len,
            trims_answer=self._visual.trims_answer,
        )
        if row.departed:
            raise DeadlineExceeded("the deadline passed before the request could be queued")
        self._waiting.push(row)
        self._call(self._admit)
        return row

    def stop(self) -> None:
        """Ends what is still under way with Unavailable; returns when vLLM's processes have ended."""
        self._stopping.set()
        fail(self._waiting.close(), unavailable("is shutting down"))
        self._call(self._ended.set)
        self._thread.join()
        self._projecting.shutdown()

    # On the thread of the engine.

    def _run(self, arguments: AsyncEngineArgs, loaded: concurrent.futures.Future[None]) -> None:
        asyncio.run(self._live(arguments, loaded))

    async def _live(self, arguments: AsyncEngineArgs, loaded: concurrent.futures.Future[None]) -> None:
        """From loading to the end of vLLM's processes."""
        self._loop = asyncio.get_running_loop()
        self._started, self._ended = asyncio.Event(), asyncio.Event()
        try:
            self._llm = _make(arguments)
        except Exception as error:
            loaded.set_exception(CheckpointError(f"vLLM does not start: {_one_line(error)}"))
            return
        try:
            await self._serve(loaded)
        finally:
            self._llm.shutdown()
            del self._llm  # or its finalizer complains when the interpreter ends

    async def _serve(self, loaded: concurrent.futures.Future[None]) -> None:
        try:
            await self._first_token_logprobs(engine_input(_trial(self._visual), self._visual))
        except Exception as error:
            loaded.set_exception(CheckpointError(f"vLLM loads the model but cannot run it: {_one_line(error)}"))
            return
        loaded.set_result(None)
        looking = asyncio.create_task(self._look())
        await self._ended.wait()
        looking.cancel()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _look(self) -> None:
        """Returns when vLLM is dead, having told so."""
        with contextlib.suppress(EngineDeadError):
            while True:
                await self._llm.check_health()
                await asyncio.sleep(_LOOK_S)
        log.critical("vLLM has died; its log tells why")
        FAILURES.labels("engine_died").inc()
        fail(self._waiting.close(), unavailable("has lost its engine"))
        await self._started.wait()
        self._on_death()

    def _call(self, function: Callable[[], object]) -> None:
        """On the loop, soon; not at all once that is closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def _admit(self) -> None:
        """Gives free places to those who wait."""
        for row in self._waiting.take(self._max_batch_size - len(self._running)):
            row.admit()
            task = self._loop.create_task(self._generate(row))
            self._running.add(task)
            task.add_done_callback(self._leave)
            row.when_cancelled(partial(self._call, task.cancel))

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._admit()

    async def _generate(self, row: Row) -> None:
        """Answers one request, whatever happens."""
        try:
            await self._answer(row)
        except asyncio.CancelledError:
            if self._stopping.is_set():
                fail([row], unavailable("is shutting down"))
            else:
                FAILURES.labels("generation_abandoned").inc()
        except ServiceError as error:
            row.fail(error)
        except EngineDeadError:
            fail([row], unavailable("has lost its engine"))
        except GracefulHTTPError as error:  # vLLM's admission control, where the operator has set one
            row.fail(Overloaded(_one_line(error), retry_after_s=1.0))
        except VLLMClientError as error:
            row.fail(InvalidRequest(_one_line(error), param="input_ids"))
        except Exception:
            log.exception("a request failed")
            row.fail(defect())

    async def _answer(self, row: Row) -> None:
        request = row.request
        prompt = await self._loop.run_in_executor(self._projecting, engine_input, request.prompt, self._visual)
        if request.first_token_logprobs:
            row.first_token_logprobs = await self._first_token_logprobs(prompt)
        parameters = decoding(row, self._visual.eos_token_ids, request.sampling.seed)
        # Closing what is not finished aborts it in vLLM.
        async with contextlib.aclosing(self._llm.generate(prompt, parameters, uuid.uuid4().hex)) as outputs:
            async for output in outputs:
                for token_id in output.outputs[0].token_ids:
                    if not row.ended:
                        row.accept(token_id)
                if row.ended and not output.finished:
                    return
        if not row.ended:
            raise InternalError(f"vLLM ended the answer early ({output.outputs[0].finish_reason})")

    async def _first_token_logprobs(self, prompt: Any) -> list[float]:
        """[V], by a prefill of its own: vLLM would otherwise report every token's distribution. What follows finds that
        prefill in the prefix cache."""
        async with contextlib.aclosing(self._llm.generate(prompt, first_token(), uuid.uuid4().hex)) as outputs:
            async for output in outputs:
                (logprobs,) = output.outputs[0].logprobs
                return [logprobs[token_id].logprob for token_id in range(len(logprobs))]
        raise InternalError("vLLM reported no log-probabilities")


def _trial(visual: VisualSide) -> Prompt:
    """A picture of one token. That it is answered shows that vLLM's kernels take this model and that embeddings arrive;
    and what vLLM compiles for its first distribution does not hold up requests later."""
    picture = VisualTokens(np.zeros((1, visual.visual_hidden_size), np.float32), np.zeros(1, np.int64), (1, 1, 1))
    return Prompt(np.array([min(visual.eos_token_ids), visual.image_token_id]), (picture,))


def _make(arguments: AsyncEngineArgs) -> AsyncLLM:
    # A fork would copy the locks of threads that it does not copy.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    # Nothing goes to anybody who was not asked for.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    return AsyncLLM.from_engine_args(arguments)


def _check_features(request: GenerationRequest) -> None:
    for name, asked in (("llm_pruner", request.pruning), ("cross_attention", request.cross_attention)):
        if asked is not None:
            raise InvalidRequest(
                f"engine vllm cannot look between the layers of its model; leave {name} out, or ask a service with"
                " --engine transformers",
                param=name,
            )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_MAX_ERROR_CHARS] or type(error).__name__
