"""Answers in OpenAI's format: a completion, or the chunks of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from gateway.core import text_delta as core
from gateway.core.answer import Answer
from gateway.core.text_delta import TextDelta
from gateway.http.event_stream import data_frame
from gateway.http.responses import answer_response
from gateway.http.schemas.chat_response import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatUsage,
    ChunkChoice,
    FoveaReport,
    Logprobs,
    PromptTokensDetails,
    TokenLogprob,
    TopLogprob,
)
from gateway.http.schemas.error import ErrorBody

__all__ = ["ChatResponder", "error_frame"]

_DONE = b"data: [DONE]\n\n"


def error_frame(error: ErrorBody) -> bytes:
    """The event of an error in the middle of a stream. No `[DONE]` follows, so that no client takes it for an end."""
    return data_frame(error.model_dump_json())


class ChatResponder:
    """Writer of the response to one request, with an id of its own.

    Args:
        model: Name of the model in the response.
        include_usage: Whether a stream ends with a chunk that has the usage.
        report: Whether the report of Fovea is added.
    """

    def __init__(self, model: str, *, include_usage: bool, report: bool) -> None:
        self._header: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }
        self._include_usage = include_usage
        self._report = report
        self._started = False

    def completion(self, answer: Answer) -> dict[str, Any]:
        """The JSON of a whole answer."""
        completion = answer.completion
        choice = ChatChoice(
            message=AssistantMessage(content=completion.text),
            logprobs=_logprobs(completion.logprobs),
            finish_reason=completion.finish_reason,
        )
        response = ChatCompletion(**self._header, choices=[choice], usage=_usage(answer))
        return response.model_dump(mode="json", exclude={"fovea"}) | self._reported(answer)

    def frame(self, event: TextDelta | Answer) -> bytes:
        """The server-sent events for one event of an answer: a role before the first, and the end after the last."""
        frames = b""
        if not self._started:
            self._started = True
            frames = self._chunk([ChunkChoice(delta={"role": "assistant", "content": ""})])
        if isinstance(event, TextDelta):
            piece = ChunkChoice(delta={"content": event.text}, logprobs=_logprobs(event.logprobs or None))
            return frames + self._chunk([piece])
        end = ChunkChoice(delta={}, finish_reason=event.completion.finish_reason)
        frames += self._chunk([end], **self._reported(event))
        if self._include_usage:
            frames += self._chunk([], usage=_usage(event).model_dump(mode="json"))
        return frames + _DONE

    def _chunk(self, choices: list[ChunkChoice], **extra: Any) -> bytes:
        chunk = ChatCompletionChunk(**self._header, choices=choices)
        # A usage of null is part of the format only where a usage was asked for.
        hidden = {"fovea"} if self._include_usage else {"fovea", "usage"}
        return data_frame(
            json.dumps(chunk.model_dump(mode="json", exclude=hidden) | extra, ensure_ascii=False, separators=(",", ":"))
        )

    def _reported(self, answer: Answer) -> dict[str, Any]:
        """The field `fovea` of the response, if it was asked for."""
        if not self._report:
            return {}
        response = answer_response(answer, model="")
        report = FoveaReport(
            cache=response.cache,
            timing_ms=response.timing_ms,
            wire_dtype=response.usage.wire_dtype,
            wire_bytes=response.usage.wire_bytes,
            visual_tokens_by_layer=response.usage.visual_tokens_by_layer,
            viewed=response.usage.viewed,
            explain=response.explain,
        )
        return {"fovea": report.model_dump(mode="json", exclude_none=True)}


def _logprobs(tokens: Sequence[core.TokenLogprob] | None) -> Logprobs | None:
    if tokens is None:
        return None
    content = [
        TokenLogprob(**vars(_top_logprob(token)), top_logprobs=[_top_logprob(top) for top in token.top])
        for token in tokens
    ]
    return Logprobs(content=content)


def _top_logprob(token: core.TopLogprob) -> TopLogprob:
    text = token.token.decode(errors="backslashreplace")
    return TopLogprob(token=text, logprob=token.logprob, bytes=list(token.token))


def _usage(answer: Answer) -> ChatUsage:
    completion = answer.completion
    return ChatUsage(
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        total_tokens=completion.prompt_tokens + completion.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(
            image_tokens=completion.visual_tokens_kept, image_tokens_before=completion.visual_tokens_total
        ),
    )
