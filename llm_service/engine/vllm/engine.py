"""Engine that runs the language model with vLLM, in vLLM's own processes.

One thread runs an event loop that calls vLLM. A request waits in the bounded queue until fewer than `max_batch_size`
requests run. A task then embeds its visual tokens and generates the answer. vLLM batches the running requests.
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
from fovea.telemetry import FailureKind, count_failure
from llm_service.engine.answer_times import AnswerTimes
from llm_service.engine.base import Generation, GenerationRequest
from llm_service.engine.errors import fail, internal_error, unavailable
from llm_service.engine.sequence import Sequence
from llm_service.engine.token_bytes import TokenBytes
from llm_service.engine.vllm.inputs import check_supported, engine_input
from llm_service.engine.vllm.sampling import answer_params, chosen_logprobs, first_token_params
from llm_service.engine.waiting_queue import WaitingQueue
from llm_service.models.base import VisualEmbedder
from llm_service.prompts import Prompt, VisualTokens
from llm_service.pruners.base import AnyLlmPruningMethod
from llm_service.sampling import SAMPLING_PARAMETERS
from llm_service.vllm_plugin.parent_watch import PARENT_VARIABLE

__all__ = ["VllmEngine"]

log = logging.getLogger(__name__)

# Interval of health checks. While requests run, the death of vLLM is noticed at once.
_HEALTH_CHECK_INTERVAL_S: Final = 1.0
_MAX_ERROR_CHARS: Final = 500


class VllmEngine:
    """An `LLMEngine` on vLLM. The constructor loads the model and starts vLLM's processes.

    Args:
        embedder: Visual embedder of the checkpoint's family.
        tokenizer: Tokenizer of the same checkpoint.
        arguments: vLLM's arguments, from `engine_arguments`.
        eos_token_ids: Ids that end an answer.
        max_model_len: Maximum number of positions of prompt and answer together; a longer answer is cut.
        max_batch_size: Maximum number of running requests.
        max_queue_size: Maximum number of waiting requests.
        max_queue_time_s: Longest estimated queue time of an accepted request, in seconds.

    Raises:
        CheckpointError: vLLM does not start.
    """

    name: Final = "vllm"

    def __init__(
        self,
        embedder: VisualEmbedder,
        tokenizer: Tokenizer,
        arguments: AsyncEngineArgs,
        *,
        eos_token_ids: frozenset[int],
        max_model_len: int,
        max_batch_size: int,
        max_queue_size: int,
        max_queue_time_s: float,
    ) -> None:
        self._embedder = embedder
        self._tokenizer = tokenizer
        self._token_bytes = TokenBytes(tokenizer)
        self._eos_token_ids = eos_token_ids
        self._speculates = arguments.speculative_config is not None
        self._max_model_len = max_model_len
        self._max_batch_size = max_batch_size
        self._answer_times = AnswerTimes()
        self._waiting = WaitingQueue(max_queue_size, max_queue_time_s=max_queue_time_s, answer_times=self._answer_times)
        self._running: set[asyncio.Task[None]] = set()
        self._embedding_thread = concurrent.futures.ThreadPoolExecutor(1, "project")
        self._on_death: Callable[[], object] = lambda: None
        self._stopping = threading.Event()
        loaded: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, args=(arguments, loaded), name="model", daemon=True)
        self._thread.start()
        loaded.result()

    @property
    def num_waiting(self) -> int:
        """Number of requests in the queue."""
        return len(self._waiting)

    @property
    def queue_time_s(self) -> float:
        """See `WaitingQueue.queue_time_s`."""
        return self._waiting.queue_time_s

    @property
    def num_running(self) -> int:
        """Number of requests that have been passed to vLLM."""
        return len(self._running)

    @property
    def pruners(self) -> Mapping[str, AnyLlmPruningMethod]:
        """No pruners, because vLLM cannot stop between layers."""
        return {}

    @property
    def sampling_parameters(self) -> tuple[str, ...]:
        """All parameters; with speculative decoding all but min_p, which vLLM then refuses."""
        return tuple(name for name in SAMPLING_PARAMETERS if not (self._speculates and name == "min_p"))

    def start(self, on_death: Callable[[], object] = lambda: None) -> None:
        """Sets the callback for the death of vLLM. Requests are served from construction on."""
        self._on_death = on_death
        self._call_soon(self._started.set)

    def submit(self, request: GenerationRequest) -> Generation:
        """Queues a request; see `LLMEngine.submit`."""
        check_supported(request)
        if self._speculates and request.sampling.min_p:
            raise InvalidRequest("engine vllm has no min_p with speculative decoding; leave min_p out", param="min_p")
        sequence = Sequence(
            request,
            self._tokenizer,
            self._eos_token_ids,
            self._max_model_len,
            trims_answer=self._embedder.trims_answer,
            token_bytes=self._token_bytes,
        )
        if sequence.aborted:
            raise DeadlineExceeded("the deadline passed before the request could be queued")
        self._waiting.push(sequence)
        self._call_soon(self._admit)
        return sequence

    def stop(self) -> None:
        """Ends all requests with Unavailable; returns when vLLM's processes have ended."""
        self._stopping.set()
        fail(self._waiting.close(), unavailable("is shutting down"))
        self._call_soon(self._stop_requested.set)
        self._thread.join()
        self._embedding_thread.shutdown()

    # All methods below except `_call_soon` run on the engine's thread.

    def _run(self, arguments: AsyncEngineArgs, loaded: concurrent.futures.Future[None]) -> None:
        asyncio.run(self._load_and_serve(arguments, loaded))

    async def _load_and_serve(self, arguments: AsyncEngineArgs, loaded: concurrent.futures.Future[None]) -> None:
        """Loads vLLM, serves until `stop` is called, and shuts vLLM down."""
        self._loop = asyncio.get_running_loop()
        self._started, self._stop_requested = asyncio.Event(), asyncio.Event()
        try:
            self._llm = _start_vllm(arguments)
        except Exception as error:
            loaded.set_exception(CheckpointError(f"vLLM does not start: {_one_line(error)}"))
            return
        try:
            await self._serve(loaded)
        finally:
            self._llm.shutdown()
            del self._llm  # its finalizer would log an error at the exit of the interpreter

    async def _serve(self, loaded: concurrent.futures.Future[None]) -> None:
        try:
            await self._first_token_logprobs(engine_input(self._warm_up_prompt(), self._embedder))
        except Exception as error:
            loaded.set_exception(CheckpointError(f"vLLM loads the model but cannot run it: {_one_line(error)}"))
            return
        loaded.set_result(None)
        health_check = asyncio.create_task(self._watch_health())
        await self._stop_requested.wait()
        for task in (health_check, *self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _warm_up_prompt(self) -> Prompt:
        """Prompt with an image of one token, run before the engine is ready.

        It verifies that vLLM's kernels support the model and that vLLM receives the embeddings, and it triggers the
        compilation.
        """
        features = np.zeros((1, self._embedder.visual_hidden_size), np.float32)
        planes = (features,) * self._embedder.num_planes
        image = VisualTokens(features, np.zeros(1, np.int64), (1, 1, 1), planes=planes)
        return Prompt(np.array([min(self._eos_token_ids), self._embedder.image_token_id]), (image,))

    async def _watch_health(self) -> None:
        """Waits for the death of vLLM, then ends the waiting requests and calls the callback."""
        with contextlib.suppress(EngineDeadError):
            while True:
                await self._llm.check_health()
                await asyncio.sleep(_HEALTH_CHECK_INTERVAL_S)
        log.critical("vLLM has died; its log has the reason")
        count_failure(FailureKind.ENGINE_DIED)
        fail(self._waiting.close(), unavailable("has lost its engine"))
        await self._started.wait()
        self._on_death()

    def _call_soon(self, function: Callable[[], object]) -> None:
        """Schedules a call on the engine's loop; does nothing if the loop is closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def _admit(self) -> None:
        """Admits waiting requests until `max_batch_size` requests run."""
        for sequence in self._waiting.pop(self._max_batch_size - len(self._running)):
            sequence.admit()
            task = self._loop.create_task(self._generate(sequence))
            self._running.add(task)
            task.add_done_callback(self._remove)
            sequence.on_abort(partial(self._call_soon, task.cancel))

    def _remove(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._admit()

    async def _generate(self, sequence: Sequence) -> None:
        """Generates an answer and turns every exception into an error for the caller."""
        try:
            await self._generate_tokens(sequence)
            self._answer_times.observe(sequence)
        except asyncio.CancelledError:
            if self._stopping.is_set():
                fail([sequence], unavailable("is shutting down"))
            else:
                count_failure(FailureKind.GENERATION_ABORTED)
        except ServiceError as error:
            sequence.fail(error)
        except EngineDeadError:
            fail([sequence], unavailable("has lost its engine"))
        except GracefulHTTPError as error:  # from vLLM's admission control, if the operator has enabled it
            sequence.fail(Overloaded(_one_line(error), retry_after_s=1.0))
        except VLLMClientError as error:
            sequence.fail(InvalidRequest(_one_line(error), param="input_ids"))
        except Exception:
            log.exception("a request failed")
            sequence.fail(internal_error())

    async def _generate_tokens(self, sequence: Sequence) -> None:
        request = sequence.request
        prompt = await self._loop.run_in_executor(
            self._embedding_thread, engine_input, request.prompt, self._embedder, request.cache_salt
        )
        if request.first_token_logprobs:
            sequence.first_token_logprobs = await self._first_token_logprobs(prompt)
        params = answer_params(sequence, self._eos_token_ids, request.sampling.seed)
        # Closing an unfinished generator aborts the request in vLLM.
        async with contextlib.aclosing(self._llm.generate(prompt, params, uuid.uuid4().hex)) as outputs:
            async for output in outputs:
                for token_id, logprobs in chosen_logprobs(output.outputs[0], request.top_logprobs):
                    if not sequence.finished:
                        sequence.append_token(token_id, logprobs)
                if sequence.finished and not output.finished:
                    return
        if not sequence.finished:
            raise InternalError(f"vLLM ended the answer early ({output.outputs[0].finish_reason})")

    async def _first_token_logprobs(self, prompt: Any) -> list[float]:
        """[V] log-probabilities of the first token, from a separate prefill.

        In the answer's own call, vLLM would report the distribution of every token. Its prefill hits the prefix cache.
        """
        async with contextlib.aclosing(self._llm.generate(prompt, first_token_params(), uuid.uuid4().hex)) as outputs:
            async for output in outputs:
                (logprobs,) = output.outputs[0].logprobs
                return [logprobs[token_id].logprob for token_id in range(len(logprobs))]
        raise InternalError("vLLM reported no log-probabilities")


def _start_vllm(arguments: AsyncEngineArgs) -> AsyncLLM:
    # A forked process would inherit locks that threads of this process hold.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    # Usage statistics are sent only if the operator turns them on.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    return AsyncLLM.from_engine_args(arguments)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_MAX_ERROR_CHARS] or type(error).__name__
