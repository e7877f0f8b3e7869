"""Pipeline of a request: load media, plan, look up the answer cache, encode, generate, store.

`Pipeline.answer` shows the whole flow. Identical requests share the computation after the cache look-up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager

from fovea.errors import CheckpointMismatch, InvalidRequest, ServiceError
from gateway import metrics
from gateway.cache.base import Cache
from gateway.clients.encoder import EncoderClient, EncodeResult
from gateway.clients.llm import LLMClient
from gateway.core.encode_stage import EncodeStage
from gateway.core.generate_stage import GenerateStage
from gateway.core.plans import ActivationMapsPlan, AnswerPlan, EncodePlan
from gateway.core.question import Uploads, read_question
from gateway.core.request_planner import RequestPlanner
from gateway.core.responses import (
    AnswerResult,
    CachedAnswer,
    activation_maps,
    answer_response,
    explain_response,
    explanation,
)
from gateway.core.result_cache import ResultCache
from gateway.core.retry import deadline_exceeded
from gateway.core.single_flight import FlightResult, SingleFlight
from gateway.http.explanation_renderer import ExplanationRenderer
from gateway.http.schemas.answer import AnswerRequest
from gateway.http.schemas.answer_response import AnswerResponse, MediaExplanations, TokenEvent
from gateway.http.schemas.explain import ActivationMaps, ExplainRequest, ExplainResponse
from gateway.media.loader import MediaLoader

__all__ = ["Pipeline"]


class Pipeline:
    """Pipeline of answers and explanations.

    Args:
        planner: Planner of requests.
        encoder: Client of the encoder service.
        llm: Client of the LLM service.
        cache: Storage of cached answers and visual tokens.
        media_loader: Loader of images and videos.
        renderer: Renderer of explanations.
    """

    def __init__(
        self,
        planner: RequestPlanner,
        *,
        encoder: EncoderClient,
        llm: LLMClient,
        cache: Cache,
        media_loader: MediaLoader,
        renderer: ExplanationRenderer,
    ) -> None:
        self.planner = planner
        self.settings = planner.settings
        self.encoder = encoder
        self.llm = llm
        outage_timeout_s = self.settings.patience_s
        self._cache = ResultCache(cache)
        self._encode_stage = EncodeStage(encoder, self._cache, outage_timeout_s=outage_timeout_s)
        self._generate_stage = GenerateStage(llm, outage_timeout_s=outage_timeout_s)
        self._media_loader = media_loader
        self._renderer = renderer
        self._flights: SingleFlight[AnswerResult] = SingleFlight()

    async def answer(
        self, request: AnswerRequest, uploads: Uploads, *, arrived: float
    ) -> AsyncGenerator[TokenEvent | AnswerResponse]:
        """Pieces of the answer's text as they are decoded, then the whole answer.

        Closing the generator cancels the computation, unless other requests share it.

        Args:
            request: A valid request.
            uploads: Uploaded files.
            arrived: Event-loop time at which the request arrived, in seconds; its timeout starts there.

        Raises:
            ServiceError: The answer cannot be given.
        """
        question, media_inputs = read_question(request, uploads)
        deadline = arrived + self.planner.check(request, question, media_inputs)
        async with _until(deadline):
            media = await self._media_loader.load(media_inputs)
            encoder, llm = await asyncio.gather(self.encoder.info(), self.llm.info())
            plan = self.planner.plan_answer(request, question, media, encoder=encoder, llm=llm, deadline=deadline)
            cached = await self._cache.get_answer(plan)
        if cached is not None:
            if cached.answer:
                yield TokenEvent(text=cached.answer)
            yield self._response(AnswerResult(cached), plan, arrived, _now())
            return

        first_token_at = None
        run = self._flights.run(plan.shared_key, lambda emit: self._compute_answer(plan, emit), deadline=deadline)
        async with aclosing(run) as events:
            async for event in events:
                first_token_at = first_token_at or _now()
                if isinstance(event, FlightResult):
                    result = AnswerResult(event.result.cached) if event.shared else event.result
                    yield self._response(result, plan, arrived, first_token_at)
                else:
                    yield TokenEvent(text=event)

    async def explain(self, request: ExplainRequest, uploads: Uploads, *, arrived: float) -> ExplainResponse | bytes:
        """Explanation of the visual tokens kept for a question. The language model runs only for activation maps.

        Args:
            request: A valid request.
            uploads: Uploaded files.
            arrived: Event-loop time at which the request arrived, in seconds.

        Returns:
            The response, or a PNG file if the request's `format` is `png`.

        Raises:
            ServiceError: The explanation cannot be given.
        """
        question, media_inputs = read_question(request, uploads)
        deadline = arrived + self.planner.check(request, question, media_inputs)
        async with _until(deadline):
            media = await self._media_loader.load(media_inputs)
            encoder = await self.encoder.info()
            llm = await self.llm.info() if request.maps else None
            plan = self.planner.plan_explanation(request, question, media, encoder=encoder, llm=llm, deadline=deadline)
            with _errors_for_client(plan):
                encoded, _ = await self._encode_stage.run(plan)
                maps = None if plan.maps is None else await self._activation_maps(plan.maps, encoded)
                response = explain_response(encoded, maps, model=self.settings.model_name)
                if request.format == "json":
                    return response
                return await self._renderer.render_png(plan.encode.images, question.text, response)

    async def _activation_maps(self, plan: ActivationMapsPlan, encoded: EncodeResult) -> ActivationMaps:
        if isinstance(explanation(encoded), MediaExplanations):
            raise InvalidRequest("maps show an image that is not cut into tiles; this model cuts it", param="maps")
        vanilla, decoupled, unpruned = [
            (await self._encode_stage.run(encode_plan))[0]
            for encode_plan in (plan.vanilla, plan.decoupled, plan.unpruned)
        ]
        attention = await self._generate_stage.cross_attention(plan, unpruned)
        return activation_maps(vanilla, decoupled, attention)

    async def _compute_answer(self, plan: AnswerPlan, emit: Callable[[str], None]) -> AnswerResult:
        """Computes an answer and stores it in the cache. It runs in its own task, which several callers may share."""
        with _errors_for_client(plan):
            async with self._cache.answer_lock(plan) as cached:
                if cached is not None:
                    emit(cached.answer)
                    return AnswerResult(cached)
                result, encoded = await self._encode_and_generate(plan, emit)
                if plan.answer_key is not None and await self._matches_key(plan, encoded):
                    await self._cache.put_answer(plan.answer_key, result.cached)
                return result

    async def _encode_and_generate(
        self, plan: AnswerPlan, emit: Callable[[str], None]
    ) -> tuple[AnswerResult, EncodeResult]:
        start = _now()
        encoded, lookup = await self._encode_stage.run(plan)
        encoded_at = _now()
        try:
            generation = await self._generate_stage.run(plan, encoded, emit)
        except CheckpointMismatch:
            self.encoder.invalidate_info()  # outdated: one of the two services has been replaced
            raise
        done = generation.done
        computed = lookup != "hit"
        result = AnswerResult(
            CachedAnswer(
                answer=generation.text,
                finish_reason=done.finish_reason,
                prompt_tokens=done.prompt_tokens,
                completion_tokens=done.completion_tokens,
                visual_tokens_total=encoded.num_tokens_total,
                visual_tokens_kept=encoded.num_tokens_kept,
                visual_tokens_by_layer=list(done.visual_tokens_by_layer),
                wire_dtype=encoded.wire_dtype,
            ),
            wire_bytes=generation.wire_bytes,
            answer="miss" if plan.shared_key is not None else "skip",
            visual_tokens=lookup,
            features=("hit" if encoded.features_cached else "miss") if computed else "skip",
            queue_ms=(encoded.queue_ms if computed else 0.0) + done.queue_ms,
            encode_ms=(encoded_at - start) * 1000 if computed else 0.0,
            generate_ms=(_now() - encoded_at) * 1000,
            explain=explanation(encoded) if plan.encode.explain else None,
        )
        return result, encoded

    async def _matches_key(self, plan: AnswerPlan, encoded: EncodeResult) -> bool:
        """Whether no service was replaced since the plan was made, so that the answer belongs to the plan's key."""
        return await self._encode_stage.matches_key(plan, encoded) and await self.llm.info() == plan.llm

    def _response(
        self, result: AnswerResult, plan: AnswerPlan, arrived: float, first_token_at: float
    ) -> AnswerResponse:
        metrics.TIME_TO_FIRST_TOKEN_SECONDS.observe(first_token_at - arrived)
        return answer_response(
            result,
            model=self.settings.model_name,
            tokenize_ms=plan.tokenize_ms,
            time_to_first_token_s=first_token_at - arrived,
            total_s=_now() - arrived,
        )

    async def close(self) -> None:
        """Cancels the work in progress and closes clients, cache, loader and renderer."""
        await self._flights.close()
        await self._renderer.close()
        await asyncio.gather(self.encoder.close(), self.llm.close(), self._cache.close(), self._media_loader.close())


@contextmanager
def _errors_for_client(plan: EncodePlan) -> Iterator[None]:
    """Replaces the `param` of an error, a field of a service's request, by the field of the client's request."""
    try:
        yield
    except ServiceError as error:
        if error.param is not None:
            error.param = plan.fields.get(error.param, error.param)
        raise


def _now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def _until(deadline: float) -> AsyncIterator[None]:
    """Cancels the body of the `with` statement at `deadline`, an event-loop time in seconds.

    Raises:
        DeadlineExceeded: The body was cancelled.
    """
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise deadline_exceeded() from None
