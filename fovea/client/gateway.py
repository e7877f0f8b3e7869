"""Requests to the gateway: a question with its media as a form, and the answer, whole or streamed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from fovea.client.api_key import authorization, is_api_key
from fovea.client.event_stream import events
from fovea.client.form_parts import Medium, UnreadableMedium, form_parts
from fovea.client.gateway_url import gateway_url

__all__ = ["AnswerError", "ask", "explain"]


class AnswerError(RuntimeError):
    """A request that the gateway refused, or that did not reach it. The message is for the user."""


def ask(
    url: str,
    images: Medium | Sequence[Medium],
    question: str,
    *,
    video: Medium | None = None,
    api_key: str | None = None,
    timeout_s: float = 60,
    on_text: Callable[[str], object] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Answer to one question about images, a video or both.

    Args:
        url: base URL of the gateway; the default scheme is http, and a slash at the end is ignored.
        images: one image, or several; an empty list for none. Each is a path, the content of a file, or a URL that the
            gateway resolves.
        question: text of the question. `<image>` and `<video>` in it mark the positions of the media; media without a
            mark come first.
        video: video as a path, content or URL, for families that take one; None for none.
        api_key: key of a gateway that needs one. It is sent to this gateway alone, and no error shows it.
        timeout_s: deadline of the whole answer in seconds.
        on_text: function that is called with each piece of the answer as it is decoded; None for no streaming.
        fields: further fields of `/v1/answer`, such as pruner="cls", keep_tokens=32, explain=True.

    Returns:
        The answer object (docs/api.md).

    Raises:
        AnswerError: a file cannot be read, the gateway cannot be reached, or the gateway answered with an error.
    """
    fields |= {"stream": None if on_text is None else True}
    media = images, video
    return _post(url, "/v1/answer", media, {**fields, "question": question}, api_key, timeout_s, on_text)


def explain(
    url: str,
    images: Medium | Sequence[Medium],
    question: str,
    *,
    video: Medium | None = None,
    api_key: str | None = None,
    timeout_s: float = 60,
    **fields: Any,
) -> dict[str, Any]:
    """Explanation of the visual tokens that would be kept for a question.

    Args:
        url, images, question, video, api_key: gateway, media, question and key, see `ask`.
        timeout_s: deadline in seconds.
        fields: further fields of `/v1/explain`, such as keep_tokens=32, maps=True.

    Returns:
        The object of `/v1/explain` (docs/api.md).

    Raises:
        AnswerError: a file cannot be read, the gateway cannot be reached, or the gateway answered with an error.
    """
    media = images, video
    return _post(url, "/v1/explain", media, {**fields, "question": question, "format": "json"}, api_key, timeout_s)


def _post(
    url: str,
    path: str,
    media: tuple[Medium | Sequence[Medium], Medium | None],
    fields: dict[str, Any],
    api_key: str | None,
    timeout_s: float,
    on_text: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    base = _base(url)
    if api_key and not is_api_key(api_key):
        raise AnswerError("the API key is not accepted; ASCII letters, digits and signs without spaces are")
    shown = re.sub(r"//[^/@]*@", "//", base)  # without user name and password
    with ExitStack() as opened:
        opened.enter_context(_as_answer_errors(shown, api_key))
        parts = opened.enter_context(form_parts(*media, {**fields, "timeout_s": timeout_s}))
        response = opened.enter_context(
            httpx.stream(
                "POST",
                f"{base}{path}",
                files=parts,
                headers=authorization(api_key),
                timeout=timeout_s + 5,
                trust_env=False,
                follow_redirects=False,  # the media and the key are for this gateway
            )
        )
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return _read_stream(shown, response.iter_bytes(), on_text or (lambda text: None))
        response.read()
        return _read_object(shown, response)
    raise AssertionError("unreachable: the stack swallows no exception")


def _base(url: str) -> str:
    try:
        return gateway_url(url)
    except ValueError as error:
        raise AnswerError(str(error)) from error


@contextmanager
def _as_answer_errors(url: str, api_key: str | None) -> Iterator[None]:
    try:
        yield
    except AnswerError as error:  # a server may quote the headers of a request
        if api_key and api_key in str(error):
            raise AnswerError(str(error).replace(api_key, "***")) from None
        raise
    except UnreadableMedium as error:
        raise AnswerError(str(error)) from error
    except httpx.TimeoutException as error:
        raise AnswerError(f"no answer from {url} in time") from error
    except httpx.ConnectError as error:
        reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error))
        raise AnswerError(f"no connection to {url}: {reason}; is `fovea up` running?") from error
    except httpx.HTTPError as error:
        raise AnswerError(f"the connection to {url} broke; is `fovea up` running?") from error


def _read_object(url: str, response: httpx.Response) -> dict[str, Any]:
    if response.has_redirect_location:
        raise AnswerError(
            f"{url} has moved: it answered with status {response.status_code} and names {response.headers['location']}"
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
    """Message of an error of the gateway; None for an error of another server."""
    error = body.get("error")
    return str(error["message"]) if isinstance(error, dict) and "message" in error else None


def _read_stream(url: str, body: Iterable[bytes], on_text: Callable[[str], object]) -> dict[str, Any]:
    """Object of the event `done`, after the text of all events before it went to `on_text`."""
    for name, text in events(body):
        try:
            data: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise AnswerError(f"{url} sent an event that is not JSON") from error
        if name == "error":
            raise AnswerError(data["error"]["message"])
        if name == "done":
            return data
        if name == "token":
            on_text(data["text"])
    raise AnswerError(f"{url} broke the answer off")
