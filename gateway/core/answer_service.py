"""Answers to questions: plan, look up, encode, generate, store.

`AnswerService.answer` shows the whole flow. Identical questions in progress share one computation.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from fovea import tracing
from fovea.errors import CheckpointMismatch, ServiceError
from gateway import metrics
from gateway.clients.encoder import EncoderClient, EncodeResult, EncoderInfo
from gateway.clients.llm import LLMClient, LLMInfo
from gateway.core.answer import Answer, Completion, Costs, Lookup
from gateway.core.answer_store import AnswerStore
from gateway.core.deadlines import now, until
from gateway.core.limits import check_prompt
from gateway.core.planner import AnswerPlan, EncodePlan, Planner
from gateway.core.question import Question
from gateway.core.single_flight import FlightResult, SingleFlight
from gateway.core.stage_times import AnswerStages, StageTimes
from gateway.core.text_delta import TextDelta
from gateway.core.text_generator import GenerateResult, TextGenerator
from gateway.core.visual_token_store import VisualTokenStore, refuses_visual_tokens

__all__ = ["AnswerService"]

T = TypeVar("T")

_NO_LOOKUP: Final[Lookup] = "skip"


@dataclass(frozen=True)
class _Computed:
    """A computed answer.

    Attributes:
        completion: The answer itself.
        costs: Costs of the computation.
        encoded: Its visual tokens; None unless it was computed for this caller.
    """

    completion: Completion
    costs: Costs
    encoded: EncodeResult | None = None


@dataclass(frozen=True)
class _Used(Generic[T]):
    """Result of a call to the LLM service with visual tokens.

    Attributes:
        result: The result.
        encoded: The visual tokens.
        lookup: Outcome of their look-up in the cache; `miss` if the service refused those of the cache.
        encode_ms, call_ms: Time for the visual tokens and for the call, in milliseconds.
        refused_bytes: Bytes of the visual tokens of the cache that the service refused.
    """

    result: T
    encoded: EncodeResult
    lookup: Lookup
    encode_ms: float
    call_ms: float
    refused_bytes: int


class AnswerService:
    """Answers, explanations and attention, from the calls to both services.

    Args:
        planner: Planner of the calls.
        encoder: Client of the encoder service, for its info.
        llm: Client of the LLM service, for its info.
        answers: Store of answers.
        visual_tokens: Store of visual tokens.
        generator: Generator of text.
        stage_times: Measured times of the two stages.
    """

    def __init__(
        self,
        planner: Planner,
        *,
        encoder: EncoderClient,
        llm: LLMClient,
        answers: AnswerStore,
        visual_tokens: VisualTokenStore,
        generator: TextGenerator,
        stage_times: StageTimes,
    ) -> None:
        self._planner = planner
        self._encoder = encoder
        self._llm = llm
        self._answers = answers
        self._visual_tokens = visual_tokens
        self._generator = generator
        self._stage_times = stage_times
        self._flights: SingleFlight[_Computed] = SingleFlight()

    async def answer(self, question: Question) -> AsyncGenerator[TextDelta | Answer]:
        """Pieces of the answer's text as they are decoded, then the whole answer.

        Closing the generator cancels the computation, unless other questions share it.

        Raises:
            ServiceError: The answer cannot be given.
        """
        async with until(question.deadline):
            plan = await self._plan(question)
            cached = await self._answers.get(plan)
        if cached is not None:
            if cached.text:
                yield TextDelta(cached.text)
            yield _answer(_Computed(cached, Costs()), question, plan, first_token_at=now())
            return

        first_token_at = None
        run = self._flights.run(plan.shared_key, lambda emit: self._compute(plan, emit), deadline=question.deadline)
        async with aclosing(run) as events:
            async for event in events:
                first_token_at = first_token_at or now()
                if isinstance(event, FlightResult):
                    computed = _Computed(event.result.completion, Costs()) if event.shared else event.result
                    yield _answer(computed, question, plan, first_token_at=first_token_at)
                else:
                    yield event

    async def explain(self, question: Question) -> EncodeResult:
        """Visual tokens of a question, with an explanation if its encode call asks for one. No text is generated.

        Raises:
            ServiceError: The visual tokens cannot be computed.
        """
        async with until(question.deadline):
            encoder = await self._encoder.info()
            with self._dropping_infos_at_mismatch():
                plan = self._planner.plan_encode(question, self._planner.tokenize(question, encoder), encoder)
            encoded, _ = await self._visual_tokens.get(plan)
            return encoded

    async def attention(self, question: Question, layer: int | None) -> list[float]:
        """Attention of the last prompt token to each visual token in one layer of the language model.

        Args:
            question: The question; its encode call chooses the visual tokens of the prompt.
            layer: Layer of the language model, from 0; None for the LLM service's default.

        Raises:
            ServiceError: The attention cannot be computed.
        """
        async with until(question.deadline):
            encoder, llm = await self._infos()
            with self._dropping_infos_at_mismatch():
                input_ids = self._planner.tokenize(question, encoder)
                check_prompt(len(input_ids), llm)
                plan = self._planner.plan_encode(question, input_ids, encoder)
            with self._stage_times.answer(deadline=question.deadline, max_tokens=1) as stages:
                used = await self._with_visual_tokens(
                    plan,
                    lambda encoded: self._generator.attention(input_ids, encoded, layer, deadline=question.deadline),
                    stages,
                )
            return used.result

    async def _plan(self, question: Question) -> AnswerPlan:
        """Plan of an answer. A question without media needs no encoder service, not even its info."""
        with self._dropping_infos_at_mismatch():
            if not question.encode.num_media:
                return self._planner.plan_text_answer(question, await self._llm.info())
            encoder, llm = await self._infos()
            return self._planner.plan_answer(question, encoder, llm)

    @contextmanager
    def _dropping_infos_at_mismatch(self) -> Iterator[None]:
        """Drops the infos of both services at a CheckpointMismatch: the next question sees the services as they are."""
        try:
            yield
        except CheckpointMismatch:
            self._encoder.invalidate_info()
            self._llm.invalidate_info()
            raise

    async def _infos(self) -> tuple[EncoderInfo, LLMInfo]:
        """Info of both services. Those that have expired are refreshed at the same time."""
        encoder, llm = self._encoder.fresh_info, self._llm.fresh_info
        if encoder is not None and llm is not None:  # no tasks for what is known
            return encoder, llm
        return await asyncio.gather(self._encoder.info(), self._llm.info())

    async def _with_visual_tokens(
        self,
        plan: EncodePlan | None,
        call: Callable[[EncodeResult], Awaitable[T]],
        stages: AnswerStages,
    ) -> _Used[T]:
        """Result of a call to the LLM service with the visual tokens of a plan.

        Cached tokens that the service refuses are removed, and the call is repeated once with new ones.

        Args:
            plan: Plan of the encode call; None for a question without media.
            call: The call.
            stages: Checks and measurements of the two stages.
        """
        started, refused_bytes = now(), 0
        encoded, lookup = EncodeResult.empty(), _NO_LOOKUP
        if plan is not None:
            with stages.encode() as measure:
                encoded, lookup = await self._visual_tokens.get(plan, stages.encode_by)
                if lookup != "hit":
                    measure()
        encoded_at = now()
        try:
            result = await self._call_llm(call, encoded)
        except ServiceError as error:
            if plan is None or lookup != "hit" or stages.has_text or not refuses_visual_tokens(error):
                raise
            started, refused_bytes = now(), encoded.wire_bytes
            encoded, lookup = await self._visual_tokens.replace(plan, stages.encode_by), "miss"
            encoded_at = now()
            result = await self._call_llm(call, encoded)
        return _Used(result, encoded, lookup, (encoded_at - started) * 1000, (now() - encoded_at) * 1000, refused_bytes)

    async def _call_llm(self, call: Callable[[EncodeResult], Awaitable[T]], encoded: EncodeResult) -> T:
        try:
            return await call(encoded)
        except CheckpointMismatch:
            self._encoder.invalidate_info()  # outdated: one of the two services has been replaced
            raise

    async def _compute(self, plan: AnswerPlan, emit: Callable[[TextDelta], None]) -> _Computed:
        """Computes an answer and stores it. It runs in its own task, which several callers may share."""
        async with self._answers.lock(plan) as stored:
            if stored is not None:
                emit(TextDelta(stored.text))
                return _Computed(stored, Costs())

            def emit_text(delta: TextDelta) -> None:
                stages.add_piece()
                emit(delta)

            async def generate(encoded: EncodeResult) -> GenerateResult:
                with tracing.span("generate"), stages.generate() as measure:
                    result = await self._generator.generate(plan, encoded, emit_text)
                    measure(result.done.completion_tokens)
                    return result

            with self._stage_times.answer(deadline=plan.deadline, max_tokens=plan.max_tokens) as stages:
                used = await self._with_visual_tokens(plan.encode, generate, stages)
            if plan.encode is not None:
                metrics.ENCODE_SECONDS.labels(used.lookup).observe(used.encode_ms / 1000)
            metrics.GENERATE_SECONDS.observe(used.call_ms / 1000)
            computed = _Computed(_completion(used.result, used.encoded), _costs(plan, used), used.encoded)
            if plan.key is not None and await self._matches_key(plan, used.encoded):
                await self._answers.put(plan.key, computed.completion)
            return computed

    async def _matches_key(self, plan: AnswerPlan, encoded: EncodeResult) -> bool:
        """Whether no service was replaced since the plan was made, so that the answer belongs to the plan's key."""
        if plan.encode is not None and not await self._visual_tokens.matches_key(plan.encode, encoded):
            return False
        return await self._llm.info() == plan.llm

    async def close(self) -> None:
        """Cancels the computations in progress."""
        await self._flights.close()


def _completion(generated: GenerateResult, encoded: EncodeResult) -> Completion:
    done = generated.done
    return Completion(
        text=generated.text,
        finish_reason=done.finish_reason,
        prompt_tokens=done.prompt_tokens,
        completion_tokens=done.completion_tokens,
        visual_tokens_total=encoded.num_tokens_total,
        visual_tokens_kept=encoded.num_tokens_kept,
        visual_tokens_by_layer=done.visual_tokens_by_layer,
        wire_dtype=encoded.wire_dtype,
        viewed=tuple(encoded.viewed),
        logprobs=generated.logprobs,
    )


def _costs(plan: AnswerPlan, used: _Used[GenerateResult]) -> Costs:
    """Costs of a computed answer. Visual tokens from the cache cost no call to the encoder service, nor does a text."""
    cost = Costs(
        wire_bytes=used.refused_bytes + used.result.wire_bytes,
        answer="miss" if plan.shared_key is not None else "skip",
        visual_tokens=used.lookup,
        queue_ms=used.result.done.queue_ms,
        generate_ms=used.call_ms,
    )
    if used.lookup == "hit" or plan.encode is None:
        return cost
    features: Lookup = "hit" if used.encoded.features_cached else "miss"
    if plan.encode.spec.cache_salt and not plan.encode.encoder.salts_features:
        features = "skip"  # the cache of an older encoder service would tell what another tenant asked
    queue_ms = cost.queue_ms + used.encoded.queue_ms
    return replace(cost, features=features, queue_ms=queue_ms, encode_ms=used.encode_ms)


def _answer(computed: _Computed, question: Question, plan: AnswerPlan, *, first_token_at: float) -> Answer:
    """The last event of one caller's answer."""
    time_to_first_token_s = first_token_at - question.arrived
    metrics.TIME_TO_FIRST_TOKEN_SECONDS.observe(time_to_first_token_s)
    return Answer(
        completion=computed.completion,
        costs=computed.costs,
        encoded=computed.encoded if plan.encode is not None and plan.encode.spec.explain else None,
        tokenize_ms=plan.tokenize_ms,
        time_to_first_token_ms=time_to_first_token_s * 1000,
        total_ms=(now() - question.arrived) * 1000,
    )
