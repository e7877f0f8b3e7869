"""Streamed chat completions: their chunks, and the times and counts that are taken from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["ChunkReader", "Completion", "Failure", "RequestFailed", "error_message"]

_DONE: Final = "[DONE]"


class RequestFailed(Exception):
    """A request without a whole answer. `kind` names the class of failures, the message describes this one."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Failure:
    """A request without a whole answer.

    Args:
        kind: class of failures, such as `status 429` or `timeout`.
        message: first words of the reason, without secrets.
    """

    kind: str
    message: str


@dataclass(frozen=True)
class Completion:
    """A whole answer.

    Args:
        latency_s: end-to-end latency, from sending to the end of the stream, in seconds.
        ttft_s: time to first token in seconds; None for an answer without text.
        tpot_s: time per output token after the first in seconds; None for fewer than two tokens.
        output_tokens: tokens of the answer; where the endpoint sends no usage, chunks with text.
        has_usage: whether the endpoint sent usage.
        prompt_tokens: tokens of the prompt; None where the endpoint does not say.
        image_tokens: those of them that are visual tokens; None where the endpoint does not say.
        image_tokens_before: visual tokens before pruning; None where the endpoint does not say.
    """

    latency_s: float
    ttft_s: float | None
    tpot_s: float | None
    output_tokens: int
    has_usage: bool
    prompt_tokens: int | None = None
    image_tokens: int | None = None
    image_tokens_before: int | None = None


class ChunkReader:
    """Reader of the chunks of one answer.

    Args:
        sent_at: time of sending, in seconds of any clock.
    """

    def __init__(self, sent_at: float) -> None:
        self._sent_at = sent_at
        self._first_at: float | None = None
        self._last_at = sent_at
        self._text_chunks = 0
        self._usage: dict[str, Any] | None = None
        self.is_done = False

    def read(self, data: str, at: float) -> None:
        """Reads the data of one event.

        Args:
            data: data of the event.
            at: time of its arrival.

        Raises:
            RequestFailed: the event is an error of the endpoint, or no chunk.
        """
        if data == _DONE:
            self.is_done = True
            return
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise RequestFailed("invalid chunk", f"an event that is not JSON: {data[:200]}") from error
        if not isinstance(chunk, dict):
            raise RequestFailed("invalid chunk", f"an event that is no JSON object: {data[:200]}")
        if chunk.get("error"):
            raise RequestFailed("error in the stream", error_message(chunk) or data[:200])
        if _has_text(chunk):
            self._first_at = at if self._first_at is None else self._first_at
            self._last_at = at
            self._text_chunks += 1
        if isinstance(chunk.get("usage"), dict):  # some endpoints repeat it in each chunk; the last one counts
            self._usage = chunk["usage"]

    def completion(self, at: float) -> Completion:
        """The whole answer.

        Args:
            at: time of the end.

        Raises:
            RequestFailed: the stream ended before its last event.
        """
        if not self.is_done:
            raise RequestFailed("stream ended early", f"the stream ended without {_DONE}")
        usage = self._usage or {}
        tokens = _count(usage, "completion_tokens")
        output_tokens = self._text_chunks if tokens is None else tokens
        details = usage.get("prompt_tokens_details")
        details = details if isinstance(details, dict) else {}
        ttft_s = tpot_s = None
        if self._first_at is not None:
            ttft_s = self._first_at - self._sent_at
            tpot_s = (self._last_at - self._first_at) / (output_tokens - 1) if output_tokens > 1 else None
        return Completion(
            latency_s=at - self._sent_at,
            ttft_s=ttft_s,
            tpot_s=tpot_s,
            output_tokens=output_tokens,
            has_usage=tokens is not None,
            prompt_tokens=_count(usage, "prompt_tokens"),
            image_tokens=_count(details, "image_tokens"),
            image_tokens_before=_count(details, "image_tokens_before"),
        )


def error_message(body: Any) -> str | None:
    """Message of an error object in OpenAI's shape; None for anything else."""
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict) and "message" in error:
        return str(error["message"])
    return str(error) if isinstance(error, str) else None


def _has_text(chunk: dict[str, Any]) -> bool:
    """Whether a chunk brings a token: text of the answer, or of the reasoning before it."""
    choices = chunk.get("choices")
    delta = choices[0].get("delta") if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    if not isinstance(delta, dict):
        return False
    return any(delta.get(name) for name in ("content", "reasoning_content", "reasoning"))


def _count(counts: dict[str, Any], name: str) -> int | None:
    value = counts.get(name)
    return value if isinstance(value, int) else None
