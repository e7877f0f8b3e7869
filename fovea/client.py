"""A small synchronous client of the gateway, for the command line and scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

__all__ = ["AnswerError", "ask", "explain"]


class AnswerError(RuntimeError):
    """The gateway refused or could not be reached; the text is for people."""


def ask(url: str, picture: Path, question: str, *, timeout_s: float = 60, **fields: Any) -> dict[str, Any]:
    """Asks one question about one picture.

    Args:
        url: Base URL of the gateway.
        picture: A picture file.
        question: The question.
        timeout_s: Deadline of the whole answer, in seconds.
        fields: Further request fields of `/v1/answer`, such as pruner="cls", keep_tokens=32, explain=True.

    Returns:
        The answer object (docs/api.md).

    Raises:
        AnswerError: The picture cannot be read, the gateway is away, or it answered with an error.
    """
    return _post(url, "/v1/answer", picture, question, timeout_s, fields)


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
    url: str, path: str, picture: Path, question: str, timeout_s: float, fields: dict[str, Any]
) -> dict[str, Any]:
    form = {"question": question, "timeout_s": str(timeout_s)}
    form |= {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items() if v is not None}
    try:
        with picture.open("rb") as file:
            response = httpx.post(
                f"{url}{path}", data=form, files={"image": file}, timeout=timeout_s + 5, trust_env=False
            )
    except httpx.UnsupportedProtocol as error:
        raise AnswerError(f"{url!r} is no URL; write http://HOST:PORT") from error
    except OSError as error:
        raise AnswerError(f"cannot read {picture}: {error.strerror}") from error
    except httpx.HTTPError as error:
        raise AnswerError(f"no answer from {url} ({type(error).__name__}); is `fovea up` running?") from error
    try:
        body: dict[str, Any] = response.json()
    except ValueError as error:
        raise AnswerError(f"{url} answered with status {response.status_code} and no JSON") from error
    if response.status_code != httpx.codes.OK:
        raise AnswerError(f"{body.get('error', {}).get('message', response.text)} (status {response.status_code})")
    return body
