"""A small synchronous client of the gateway, for the command line and scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from fovea.event_stream import events

__all__ = ["AnswerError", "ask", "explain"]


class AnswerError(RuntimeError):
    """The gateway refused or could not be reached; the text is for people."""


def ask(
    url: str,
    pictures: Path | Sequence[Path],
    question: str,
    *,
    video: Path | None = None,
    timeout_s: float = 60,
    on_text: Callable[[str], object] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Asks one question about pictures, a video or both.

    Args:
        url: Base URL of the gateway.
        pictures: A picture file, or several; none where there is a video.
        question: The question. `<image>` and `<video>` in it mark places; what has no mark comes first.
        video: A video file, for families that take one.
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
    pictures: Path | Sequence[Path],
    question: str,
    *,
    video: Path | None = None,
    timeout_s: float = 60,
    **fields: Any,
) -> dict[str, Any]:
    """What would be kept for a question, and why.

    Args:
        url: Base URL of the gateway.
        pictures, question, video: As for `ask`.
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
    pictures: Path | Sequence[Path],
    video: Path | None,
    question: str,
    timeout_s: float,
    fields: dict[str, Any],
    on_text: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    fields |= {"question": question, "timeout_s": timeout_s}
    form = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items() if v is not None}
    with ExitStack() as opened:
        files = [(name, opened.enter_context(_open(file))) for name, file in _named(pictures, video)]
        opened.enter_context(_in_plain_words(url))
        response = opened.enter_context(
            httpx.stream("POST", f"{url}{path}", data=form, files=files, timeout=timeout_s + 5, trust_env=False)
        )
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return _follow(url, response.iter_bytes(), on_text or (lambda text: None))
        response.read()
        return _object(url, response)
    raise AssertionError("unreachable: the stack swallows no exception")


def _named(pictures: Path | Sequence[Path], video: Path | None) -> list[tuple[str, Path]]:
    """Files with the form fields in which they are sent."""
    paths = [pictures] if isinstance(pictures, Path) else pictures
    return [("image", path) for path in paths] + ([("video", video)] if video is not None else [])


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise AnswerError(f"cannot read {path}: {error.strerror}") from error


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
