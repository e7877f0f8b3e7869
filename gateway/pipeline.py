"""One question, from the request to the answer or to the explanation.

`Pipeline.answer` reads as the story: question and files, who serves, the answer cache, else `_compute`, shared with
identical requests in progress: visual tokens, cached or encoded, then text, then the caches.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from fovea import telemetry
from fovea.errors import CheckpointMismatch, InternalError, InvalidRequest, ServiceError
from gateway.cache.base import LOOKUPS, Cache, Level
from gateway.clients.encoder import EncoderClient, EncodeResult
from gateway.clients.llm import GenerateDone, LLMClient, Sampling
from gateway.explanation_renderer import ExplanationRenderer
from gateway.media_loader import MediaLoader
from gateway.plans import ActivationMapsPlan, AnswerPlan, EncodePlan
from gateway.question import Uploads, read_question
from gateway.request_planner import RequestPlanner
from gateway.responses import (
    AnswerResult,
    CachedAnswer,
    activation_maps,
    answer_response,
    explain_response,
    explanation,
)
from gateway.retry import call_with_retry, deadline_exceeded, generate_with_retry
from gateway.schemas.answer import AnswerRequest
from gateway.schemas.answer_response import AnswerResponse, Lookup, MediaExplanations, TokenEvent
from gateway.schemas.explain import ActivationMaps, ExplainRequest, ExplainResponse
from gateway.single_flight import Finished, SingleFlight

__all__ = ["Pipeline"]

_LOCK_POLL_S: Final = 0.05
_LOCK_WAIT_S: Final = 2.0


@dataclass(frozen=True)
class _Generated:
    """Text, how it ended, and the bytes of visual tokens that all calls for it shipped."""

    text: str
    done: GenerateDone
    wire_bytes: int


class Pipeline:
    """Composes encoder, LLM and caches into answers.

    Args:
        planner: Checks requests and resolves their defaults.
        encoder: Client of the encoder service.
        llm: Client of the LLM service.
        cache: Both cache levels.
        media_loader: Reads pictures and videos.
        drawing: Draws explanations.
    """

    def __init__(
        self,
        planner: RequestPlanner,
        *,
        encoder: EncoderClient,
        llm: LLMClient,
        cache: Cache,
        media_loader: MediaLoader,
        drawing: ExplanationRenderer,
    ) -> None:
        self.planner = planner
        self.settings = planner.settings
        self.encoder = encoder
        self.llm = llm
        self._cache = cache
        self._media_loader = media_loader
        self._drawing = drawing
        self._flights: SingleFlight[AnswerResult] = SingleFlight()

    async def answer(
        self, request: AnswerRequest, uploads: Uploads, *, arrived: float
    ) -> AsyncGenerator[TokenEvent | AnswerResponse]:
        """Yields the answer's text as it comes, then the whole answer. Closing the generator cancels the work.

        Args:
            request: A valid request.
            uploads: What came as files.
            arrived: Time of the event loop at which the request arrived; its deadline counts from there.

        Raises:
            ServiceError: Anything that keeps the answer from being given.
        """
        question, sources = read_question(request, uploads)
        deadline = arrived + self.planner.check(request, question, sources)
        async with _until(deadline):
            media = await self._media_loader.load(sources)
            encoder, llm = await asyncio.gather(self.encoder.info(), self.llm.info())
            plan = self.planner.plan(request, question, media, encoder=encoder, llm=llm, deadline=deadline)
            stored = await self._stored_answer(plan)
        if stored is not None:
            if stored.answer:
                yield TokenEvent(text=stored.answer)
            yield self._respond(AnswerResult(stored), plan, arrived, _now())
            return

        first_token_at = None
        run = self._flights.run(plan.shared_key, lambda emit: self._compute_for(plan, emit), deadline=deadline)
        async with aclosing(run) as events:
            async for event in events:
                first_token_at = first_token_at or _now()
                if isinstance(event, Finished):
                    computed = AnswerResult(event.result.stored) if event.shared else event.result
                    yield self._respond(computed, plan, arrived, first_token_at)
                else:
                    yield TokenEvent(text=event)

    async def explain(self, request: ExplainRequest, uploads: Uploads, *, arrived: float) -> ExplainResponse | bytes:
        """What would be kept for a question, and why; no language model runs unless the maps are wanted.

        Args:
            request: A valid request.
            uploads: What came as files.
            arrived: As for `answer`.

        Returns:
            The numbers, or the file of a PNG, whichever the request wants.

        Raises:
            ServiceError: Anything that keeps the explanation from being given.
        """
        question, sources = read_question(request, uploads)
        deadline = arrived + self.planner.check(request, question, sources)
        async with _until(deadline):
            media = await self._media_loader.load(sources)
            encoder = await self.encoder.info()
            llm = await self.llm.info() if request.maps else None
            plan = self.planner.explain(request, question, media, encoder=encoder, llm=llm, deadline=deadline)
            with _fields_of(plan):
                encoded, _ = await self._visual_tokens(plan)
                maps = None if plan.maps is None else await self._activation_maps(plan.maps, encoded)
                response = explain_response(encoded, maps, model=self.settings.model_name)
                if request.format == "json":
                    return response
                return await self._drawing.png(plan.encode.images, question.text, response)

    async def _activation_maps(self, plan: ActivationMapsPlan, encoded: EncodeResult) -> ActivationMaps:
        if isinstance(explanation(encoded), MediaExplanations):
            raise InvalidRequest("maps show a picture that is not cut into tiles; this model cuts it", param="maps")
        vanilla, decoupled, every = [
            (await self._visual_tokens(one))[0] for one in (plan.vanilla, plan.decoupled, plan.every)
        ]
        attention = await call_with_retry(
            self.llm,
            lambda timeout_s: self.llm.cross_attention(plan.input_ids, every, plan.layer, timeout_s),
            deadline=plan.every.deadline,
            outage_timeout_s=self.settings.patience_s,
        )
        return activation_maps(vanilla, decoupled, attention)

    async def _compute_for(self, plan: AnswerPlan, emit: Callable[[str], None]) -> AnswerResult:
        with _fields_of(plan):
            return await self._compute(plan, emit)

    async def _compute(self, plan: AnswerPlan, emit: Callable[[str], None]) -> AnswerResult:
        """The work itself: visual tokens, text, caches. Runs in a task of its own, possibly for many callers."""
        async with self._turn(plan) as stored:
            if stored is not None:
                emit(stored.answer)
                return AnswerResult(stored)

            start = _now()
            encoded, level = await self._visual_tokens(plan)
            encoded_at = _now()
            _check_context(plan, encoded)
            generated = await self._generate(plan, encoded, emit)
            done = generated.done
            fresh = level != "hit"
            computed = AnswerResult(
                CachedAnswer(
                    answer=generated.text,
                    finish_reason=done.finish_reason,
                    prompt_tokens=done.prompt_tokens,
                    completion_tokens=done.completion_tokens,
                    visual_tokens_total=encoded.num_tokens_total,
                    visual_tokens_kept=encoded.num_tokens_kept,
                    visual_tokens_by_layer=list(done.visual_tokens_by_layer),
                    wire_dtype=encoded.wire_dtype,
                ),
                wire_bytes=generated.wire_bytes,
                answer="miss" if plan.shared_key is not None else "skip",
                visual_tokens=level,
                features=("hit" if encoded.features_cached else "miss") if fresh else "skip",
                queue_ms=(encoded.queue_ms if fresh else 0.0) + done.queue_ms,
                encode_ms=(encoded_at - start) * 1000 if fresh else 0.0,
                generate_ms=(_now() - encoded_at) * 1000,
                explain=explanation(encoded) if plan.encode.explain else None,
            )
            if plan.answer_key is not None and await self._same_services(plan, encoded):
                await self._cache.put("answer", plan.answer_key, computed.stored.model_dump_json().encode())
            return computed

    @asynccontextmanager
    async def _turn(self, plan: AnswerPlan) -> AsyncIterator[CachedAnswer | None]:
        """Waits while another gateway computes this very answer: what it stored, or None, then it is ours to do.

        A gateway that died holding the lock must cost a client neither its answer nor much time: the wait ends after
        2 s, and after half of the time left.
        """
        key = plan.shared_key
        if key is None:
            yield None
            return
        start = _now()
        give_up_at = start + min(_LOCK_WAIT_S, (plan.deadline - start) / 2)
        waited = False
        while (lock := await self._cache.acquire(key)) is None and _now() < give_up_at:
            waited = True
            stored = await self._stored_answer(plan)
            if stored is not None:
                yield stored
                return
            await asyncio.sleep(_LOCK_POLL_S)
        try:
            yield await self._stored_answer(plan) if waited else None
        finally:
            if lock is not None:
                await self._cache.release(key, lock)

    async def _visual_tokens(self, plan: EncodePlan) -> tuple[EncodeResult, Lookup]:
        if plan.cache == "use":
            data = await self._look_up("visual_tokens", plan.visual_tokens_key)
            cached = EncodeResult.from_bytes(data, plan.encode) if data is not None else None
            if cached is not None:
                return cached, "hit"
            if data is not None:
                telemetry.FAILURES.labels("cache_entry").inc()
        encoded = await call_with_retry(
            self.encoder,
            lambda timeout_s: self.encoder.encode(plan.encode, timeout_s),
            deadline=plan.deadline,
            outage_timeout_s=self.settings.patience_s,
        )
        telemetry.VISUAL_TOKENS_TOTAL.inc(encoded.num_tokens_total)
        telemetry.VISUAL_TOKENS_KEPT.inc(encoded.num_tokens_kept)
        if plan.cache != "bypass" and await self._same_encoder(plan, encoded):
            await self._cache.put("visual_tokens", plan.visual_tokens_key, encoded.to_bytes())
        return encoded, "miss" if plan.cache == "use" else "skip"

    async def _generate(self, plan: AnswerPlan, encoded: EncodeResult, emit: Callable[[str], None]) -> _Generated:
        pieces: list[str] = []
        wire_bytes = 0

        def call(sampling: Sampling, timeout_s: float) -> AsyncGenerator[str | GenerateDone]:
            nonlocal wire_bytes
            wire_bytes += encoded.wire_bytes
            telemetry.WIRE_BYTES.inc(encoded.wire_bytes)
            return self.llm.generate(plan.input_ids, encoded, sampling, timeout_s, plan.llm_pruner)

        generation = generate_with_retry(
            self.llm, call, plan.sampling, deadline=plan.deadline, outage_timeout_s=self.settings.patience_s
        )
        try:
            async with aclosing(generation) as events:
                async for event in events:
                    if isinstance(event, GenerateDone):
                        return _Generated("".join(pieces), event, wire_bytes)
                    pieces.append(event)
                    emit(event)
        except CheckpointMismatch:
            self.encoder.invalidate_info()  # one of the two has been replaced
            raise
        raise InternalError("the LLM service ended its answer before it was done")

    async def _same_services(self, plan: AnswerPlan, encoded: EncodeResult) -> bool:
        """Whether the answer belongs under the plan's key: no service was replaced in the meantime."""
        return await self._same_encoder(plan, encoded) and await self.llm.info() == plan.llm

    async def _same_encoder(self, plan: EncodePlan, encoded: EncodeResult) -> bool:
        """Whether the visual tokens belong under the plan's key: the encoder was not replaced in the meantime."""
        if encoded.fingerprints != {plan.encoder.fingerprint}:
            self.encoder.invalidate_info()
            return False
        return await self.encoder.info() == plan.encoder

    async def _stored_answer(self, plan: AnswerPlan) -> CachedAnswer | None:
        if plan.shared_key is None:
            return None
        data = await self._look_up("answer", plan.shared_key)
        if data is None:
            return None
        try:
            return CachedAnswer.model_validate_json(data)
        except ValidationError:
            telemetry.FAILURES.labels("cache_entry").inc()
            return None

    async def _look_up(self, level: Level, key: str) -> bytes | None:
        data = await self._cache.get(level, key)
        LOOKUPS.labels(level, "miss" if data is None else "hit").inc()
        return data

    def _respond(
        self, computed: AnswerResult, plan: AnswerPlan, arrived: float, first_token_at: float
    ) -> AnswerResponse:
        telemetry.TIME_TO_FIRST_TOKEN_SECONDS.observe(first_token_at - arrived)
        return answer_response(
            computed,
            model=self.settings.model_name,
            tokenize_ms=plan.tokenize_ms,
            time_to_first_token_s=first_token_at - arrived,
            total_s=_now() - arrived,
        )

    async def close(self) -> None:
        """Cancels what is in progress and closes clients, cache, media_loader and drawing."""
        await self._flights.close()
        await self._drawing.close()
        await asyncio.gather(self.encoder.close(), self.llm.close(), self._cache.close(), self._media_loader.close())


def _check_context(plan: AnswerPlan, encoded: EncodeResult) -> None:
    """Refuses a prompt that leaves no room for a single token of answer."""
    prompt_tokens = len(plan.input_ids) - plan.encode.num_media + encoded.prompt_positions
    excess = prompt_tokens + 1 - plan.llm.max_model_len
    if excess > 0:
        raise InvalidRequest(
            f"the prompt has {prompt_tokens} tokens, visual tokens included; that is {excess} more than the model's"
            f" context of {plan.llm.max_model_len} leaves room for",
            param="question",
        )


@contextmanager
def _fields_of(plan: EncodePlan) -> Iterator[None]:
    """Errors name the fields of this request."""
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
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise deadline_exceeded() from None
