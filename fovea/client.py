"""A small synchronous client of the gateway, for the command line and scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

__all__ = ["AnswerError", "ask", "explain"]


class AnswerError(RuntimeError):
    """The gateway refused or could not be reached; the text is for people."""


def ask(
    url: str,
    picture: Path,
    question: str,
    *,
    timeout_s: float = 60,
    on_text: Callable[[str], object] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Asks one question about one picture.

    Args:
        url: Base URL of the gateway.
        picture: A picture file.
        question: The question.
        timeout_s: Deadline of the whole answer, in seconds.
        on_text: Called with each piece of the answer as it is decoded; None waits for the whole.
        fields: Further request fields of `/v1/answer`, such as pruner="cls", keep_tokens=32, explain=True.

    Returns:
        The answer object (docs/api.md).

    Raises:
        AnswerError: The picture cannot be read, the gateway is away, or it answered with an error.
    """
    fields |= {"stream": None if on_text is None else True}
    return _post(url, "/v1/answer", picture, question, timeout_s, fields, on_text)


def explain(url: str, picture: Path, question: str, *, timeout_s: float = 60, **fields: Any) -> dict[str, Any]:
    """What would be kept for a question, and why.

    Args:
        url: Base URL of the gateway.
        picture: A picture file.
        question: The question.
        timeout_s: Deadline, in seconds.
        fields: Further request fields of `/v1/explain`, such as keep_tokens=32, maps=True.

    Returns:
        The numbers of `/v1/explain` (docs/api.md).

    Raises:
        AnswerError: As for `ask`.
    """
    return _post(url, "/v1/explain", picture, question, timeout_s, {**fields, "format": "json"})


def _post(
    url: str,
    path: str,
    picture: Path,
    question: str,
    timeout_s: float,
    fields: dict[str, Any],
    on_text: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    fields |= {"question": question, "timeout_s": timeout_s}
    form = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items() if v is not None}
    try:
        files = {"image": (picture.name, picture.read_bytes())}
    except OSError as error:
        raise AnswerError(f"cannot read {picture}: {error.strerror}") from error
    with (
        _in_plain_words(url),
        httpx.stream(
            "POST", f"{url}{path}", data=form, files=files, timeout=timeout_s + 5, trust_env=False
        ) as response,
    ):
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return _follow(url, response.iter_lines(), on_text or (lambda text: None))
        response.read()
        return _object(url, response)


@contextmanager
def _in_plain_words(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.UnsupportedProtocol as error:
        raise AnswerError(f"{url!r} is no URL; write http://HOST:PORT") from error
    except httpx.HTTPError as error:
        raise AnswerError(f"no answer from {url} ({type(error).__name__}); is `fovea up` running?") from error


def _object(url: str, response: httpx.Response) -> dict[str, Any]:
    try:
        body: dict[str, Any] = response.json()
    except ValueError as error:
        raise AnswerError(f"{url} answered with status {response.status_code} and no JSON") from error
    if response.status_code != httpx.codes.OK:
        raise AnswerError(f"{body.get('error', {}).get('message', response.text)} (status {response.status_code})")
    return body


def _follow(url: str, lines: Iterable[str], on_text: Callable[[str], object]) -> dict[str, Any]:
    """Server-sent events until `done`, whose object it returns."""
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data: dict[str, Any] = json.loads(value)
            if name == "error":
                raise AnswerError(data["error"]["message"])
            if name == "done":
                return data
            on_text(data["text"])
    raise AnswerError(f"{url} broke the answer off")
