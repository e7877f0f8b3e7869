"""A small synchronous client of `/v1/answer`, for the command line and scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

__all__ = ["AnswerError", "ask"]


class AnswerError(RuntimeError):
    """The gateway refused or could not be reached; the text is for people."""


def ask(
    url: str,
    pictures: Path | Sequence[Path],
    question: str,
    *,
    video: Path | None = None,
    timeout_s: float = 60,
    **fields: Any,
) -> dict[str, Any]:
    """Asks one question about pictures, a video or both.

    Args:
        url: Base URL of the gateway.
        pictures: A picture file, or several; none where there is a video.
        question: The question. `<image>` and `<video>` in it mark places; what has no mark comes first.
        video: A video file, for families that take one.
        timeout_s: Deadline of the whole answer, in seconds.
        fields: Further request fields of `/v1/answer`, such as pruner="cls", keep_tokens=32, explain=True.

    Returns:
        The answer object (docs/api.md).

    Raises:
        AnswerError: A file cannot be read, the gateway is away, or it answered with an error.
    """
    form = {"question": question, "timeout_s": str(timeout_s)}
    form |= {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items() if v is not None}
    paths = [pictures] if isinstance(pictures, Path) else list(pictures)
    named = [("image", path) for path in paths] + ([("video", video)] if video is not None else [])
    try:
        with ExitStack() as opened:
            files = [(name, opened.enter_context(path.open("rb"))) for name, path in named]
            response = httpx.post(f"{url}/v1/answer", data=form, files=files, timeout=timeout_s + 5, trust_env=False)
    except httpx.UnsupportedProtocol as error:
        raise AnswerError(f"{url!r} is no URL; write http://HOST:PORT") from error
    except OSError as error:
        raise AnswerError(f"cannot read {error.filename}: {error.strerror}") from error
    except httpx.HTTPError as error:
        raise AnswerError(f"no answer from {url} ({type(error).__name__}); is `fovea up` running?") from error
    try:
        body: dict[str, Any] = response.json()
    except ValueError as error:
        raise AnswerError(f"{url} answered with status {response.status_code} and no JSON") from error
    if response.status_code != httpx.codes.OK:
        raise AnswerError(f"{body.get('error', {}).get('message', response.text)} (status {response.status_code})")
    return body
