"""Requests to the gateway: a question with its media, sent as a form; the answer, whole or as it comes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from fovea.client.event_stream import events
from fovea.client.form_parts import Medium, UnreadableMedium, form_parts
from fovea.client.gateway_url import gateway_url

__all__ = ["AnswerError", "ask", "explain"]


class AnswerError(RuntimeError):
    """The gateway refused or could not be reached; the text is for people."""


def ask(
    url: str,
    pictures: Medium | Sequence[Medium],
    question: str,
    *,
    video: Medium | None = None,
    timeout_s: float = 60,
    on_text: Callable[[str], object] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Asks one question about pictures, a video or both.

    Args:
        url: Base URL of the gateway; a missing scheme is http, a slash at the end is left out.
        pictures: An image, or several; none where there is a video. Each a path, the bytes of a file, or a URL that the
            gateway resolves.
        question: The question. `<image>` and `<video>` in it mark places; what has no mark comes first.
        video: A video likewise, for families that take one.
        timeout_s: Deadline of the whole answer, in seconds.
        on_text: Called with each piece of the answer as it is decoded; None waits for the whole.
        fields: Further request fields of `/v1/answer`, such as pruner="cls", keep_tokens=32, explain=True.

    Returns:
        The answer object (docs/api.md).

    Raises:
        AnswerError: A file cannot be read, the gateway is away, or it answered with an error.
    """
    fields |= {"stream": None if on_text is None else True}
    return _post(url, "/v1/answer", pictures, video, question, timeout_s, fields, on_text)


def explain(
    url: str,
    pictures: Medium | Sequence[Medium],
    question: str,
    *,
    video: Medium | None = None,
    timeout_s: float = 60,
    **fields: Any,
) -> dict[str, Any]:
    """What would be kept for a question, and why.

    Args:
        url, pictures, question, video: As for `ask`.
        timeout_s: Deadline, in seconds.
        fields: Further request fields of `/v1/explain`, such as keep_tokens=32, maps=True.

    Returns:
        The numbers of `/v1/explain` (docs/api.md).

    Raises:
        AnswerError: As for `ask`.
    """
    return _post(url, "/v1/explain", pictures, video, question, timeout_s, {**fields, "format": "json"})


def _post(
    url: str,
    path: str,
    pictures: Medium | Sequence[Medium],
    video: Medium | None,
    question: str,
    timeout_s: float,
    fields: dict[str, Any],
    on_text: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    fields |= {"question": question, "timeout_s": timeout_s}
    base = _base(url)
    shown = re.sub(r"//[^/@]*@", "//", base)  # without a password
    with ExitStack() as opened:
        opened.enter_context(_in_plain_words(shown))
        parts = opened.enter_context(form_parts(pictures, video, fields))
        response = opened.enter_context(
            httpx.stream("POST", f"{base}{path}", files=parts, timeout=timeout_s + 5, trust_env=False)
        )
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return _follow(shown, response.iter_bytes(), on_text or (lambda text: None))
        response.read()
        return _object(shown, response)
    raise AssertionError("unreachable: the stack swallows no exception")


def _base(url: str) -> str:
    try:
        return gateway_url(url)
    except ValueError as error:
        raise AnswerError(str(error)) from error


@contextmanager
def _in_plain_words(url: str) -> Iterator[None]:
    try:
        yield
    except UnreadableMedium as error:
        raise AnswerError(str(error)) from error
    except httpx.TimeoutException as error:
        raise AnswerError(f"no answer from {url} in time") from error
    except httpx.ConnectError as error:
        reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error))
        raise AnswerError(f"no connection to {url}: {reason}; is `fovea up` running?") from error
    except httpx.HTTPError as error:
        raise AnswerError(f"the connection to {url} broke; is `fovea up` running?") from error


def _object(url: str, response: httpx.Response) -> dict[str, Any]:
    if response.has_redirect_location:
        raise AnswerError(
            f"{url} has moved: it answers with status {response.status_code} and names {response.headers['location']}"
        )
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise AnswerError(f"{url} answered with status {response.status_code} and no JSON object")
    if response.status_code != httpx.codes.OK:
        raise AnswerError(f"{_message(body) or response.text[:1000]} (status {response.status_code})")
    return body


def _message(body: dict[str, Any]) -> str | None:
    """Of an error of the gateway; None where it is not one of ours."""
    error = body.get("error")
    return str(error["message"]) if isinstance(error, dict) and "message" in error else None


def _follow(url: str, body: Iterable[bytes], on_text: Callable[[str], object]) -> dict[str, Any]:
    """Server-sent events until `done`, whose object it returns."""
    for name, text in events(body):
        try:
            data: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise AnswerError(f"{url} sent an event that is no JSON") from error
        if name == "error":
            raise AnswerError(data["error"]["message"])
        if name == "done":
            return data
        if name == "token":
            on_text(data["text"])
    raise AnswerError(f"{url} broke the answer off")
