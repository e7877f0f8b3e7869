"""Generator of text: the LLM service, with a stream that resumes after an outage."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from gateway import metrics
from gateway.clients.encoder import EncodeResult
from gateway.clients.llm import GenerateDone, LLMClient
from gateway.core.generate_spec import Sampling
from gateway.core.limits import check_context
from gateway.core.planner import AnswerPlan
from gateway.core.retry import Tried, call_with_retry, generate_with_retry
from gateway.core.text_delta import GeneratedText, TextDelta, TokenLogprob

__all__ = ["GenerateResult", "TextGenerator"]


@dataclass(frozen=True)
class GenerateResult:
    """Result of a generation.

    Attributes:
        text: The whole text.
        logprobs: Log-probabilities of its tokens; None unless requested.
        done: Last event of the LLM service.
        wire_bytes: Bytes of visual tokens sent, summed over all attempts.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] | None
    done: GenerateDone
    wire_bytes: int


class TextGenerator:
    """Generator of text, and of attention to visual tokens.

    Args:
        llm: Client of the LLM service.
        outage_timeout_s: Longest outage of the LLM service, in seconds.
    """

    def __init__(self, llm: LLMClient, *, outage_timeout_s: float) -> None:
        self._llm = llm
        self._outage_timeout_s = outage_timeout_s

    async def generate(
        self, plan: AnswerPlan, encoded: EncodeResult, emit: Callable[[TextDelta], None]
    ) -> GenerateResult:
        """Generated text; `emit` receives each piece as it is decoded. A stream that breaks is resumed.

        Args:
            plan: Plan of the answer.
            encoded: Visual tokens of the prompt; `EncodeResult.empty()` for a question without media.
            emit: Receiver of the pieces of text.

        Raises:
            InvalidRequest: The prompt leaves no room for an answer in the model's context.
            ServiceError: The LLM service refused the call, failed, or is unavailable.
        """
        check_context(plan.generate, encoded, plan.llm)
        generated = GeneratedText()
        num_attempts = 0

        def call(sampling: Sampling, timeout_s: float, tried: Tried) -> AsyncGenerator[TextDelta | GenerateDone]:
            nonlocal num_attempts
            num_attempts += 1
            metrics.WIRE_BYTES.inc(encoded.wire_bytes)
            return self._llm.generate(replace(plan.generate, sampling=sampling), encoded, timeout_s, tried)

        generation = generate_with_retry(
            self._llm,
            call,
            plan.generate.sampling,
            deadline=plan.deadline,
            outage_timeout_s=self._outage_timeout_s,
        )
        async with aclosing(generation) as events:
            async for event in events:
                if isinstance(event, GenerateDone):
                    logprobs = None if plan.generate.top_logprobs is None else tuple(generated.logprobs)
                    return GenerateResult(generated.text, logprobs, event, num_attempts * encoded.wire_bytes)
                generated.append(event)
                emit(event)
        raise AssertionError("unreachable: a generation ends with GenerateDone or an error")

    async def attention(
        self, input_ids: Sequence[int], encoded: EncodeResult, layer: int | None, *, deadline: float
    ) -> list[float]:
        """Attention of the last prompt token to each visual token in one layer of the language model.

        Args:
            input_ids: Ids of the prompt.
            encoded: Visual tokens of the prompt.
            layer: Layer of the language model, from 0; None for the LLM service's default.
            deadline: Event-loop time in seconds.

        Raises:
            ServiceError: The LLM service refused the call, failed, or is unavailable.
        """
        return await call_with_retry(
            self._llm,
            lambda timeout_s, tried: self._llm.cross_attention(input_ids, encoded, layer, timeout_s, tried),
            deadline=deadline,
            outage_timeout_s=self._outage_timeout_s,
        )
