"""Generate stage: text or attention from the LLM service, for a prompt with visual tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from fovea.errors import InternalError, InvalidRequest
from gateway import metrics
from gateway.clients.encoder import EncodeResult
from gateway.clients.llm import GenerateDone, LLMClient, Sampling
from gateway.core.plans import ActivationMapsPlan, AnswerPlan
from gateway.core.retry import call_with_retry, generate_with_retry

__all__ = ["GenerateResult", "GenerateStage"]


@dataclass(frozen=True)
class GenerateResult:
    """Result of a generation.

    Attributes:
        text: The whole text.
        done: Final event of the LLM service.
        wire_bytes: Bytes of visual tokens sent, summed over all attempts.
    """

    text: str
    done: GenerateDone
    wire_bytes: int


class GenerateStage:
    """Generate stage of answers and of activation maps.

    Args:
        llm: Client of the LLM service.
        outage_timeout_s: Longest outage of the LLM service, in seconds.
    """

    def __init__(self, llm: LLMClient, *, outage_timeout_s: float) -> None:
        self._llm = llm
        self._outage_timeout_s = outage_timeout_s

    async def run(self, plan: AnswerPlan, encoded: EncodeResult, emit: Callable[[str], None]) -> GenerateResult:
        """Generated text; `emit` receives each piece as it is decoded.

        Raises:
            InvalidRequest: The prompt leaves no room for an answer in the model's context.
            ServiceError: The LLM service refused the call, failed, or is unavailable.
        """
        _check_context_length(plan, encoded)
        pieces: list[str] = []
        wire_bytes = 0

        def call(sampling: Sampling, timeout_s: float) -> AsyncGenerator[str | GenerateDone]:
            nonlocal wire_bytes
            wire_bytes += encoded.wire_bytes
            metrics.WIRE_BYTES.inc(encoded.wire_bytes)
            return self._llm.generate(plan.input_ids, encoded, sampling, timeout_s, plan.llm_pruner)

        generation = generate_with_retry(
            self._llm, call, plan.sampling, deadline=plan.deadline, outage_timeout_s=self._outage_timeout_s
        )
        async with aclosing(generation) as events:
            async for event in events:
                if isinstance(event, GenerateDone):
                    return GenerateResult("".join(pieces), event, wire_bytes)
                pieces.append(event)
                emit(event)
        raise InternalError("the LLM service ended its answer before it was done")

    async def cross_attention(self, plan: ActivationMapsPlan, encoded: EncodeResult) -> list[float]:
        """Attention of the last prompt token to each visual token of the unpruned prompt.

        Raises:
            ServiceError: The LLM service refused the call, failed, or is unavailable.
        """
        return await call_with_retry(
            self._llm,
            lambda timeout_s: self._llm.cross_attention(plan.input_ids, encoded, plan.layer, timeout_s),
            deadline=plan.unpruned.deadline,
            outage_timeout_s=self._outage_timeout_s,
        )


def _check_context_length(plan: AnswerPlan, encoded: EncodeResult) -> None:
    """Refuses a prompt that leaves no room for one generated token."""
    prompt_tokens = len(plan.input_ids) - plan.encode.num_media + encoded.prompt_positions
    excess = prompt_tokens + 1 - plan.llm.max_model_len
    if excess > 0:
        raise InvalidRequest(
            f"the prompt has {prompt_tokens} tokens, visual tokens included; that is {excess} more than the model's"
            f" context of {plan.llm.max_model_len} leaves room for",
            param="question",
        )
