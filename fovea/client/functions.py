"""One request with a client of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fovea.client.answers import Answer, Explanation
from fovea.client.form_parts import Medium
from fovea.client.sync_client import Client

__all__ = ["ask", "explain"]


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
) -> Answer:
    """Answer to one question, from a client that sends this one request; see `Client.answer`.

    Args:
        url: base URL of the gateway.
        images, question, video, fields: see `Client.answer`.
        api_key: key of a gateway that needs one; None for none.
        timeout_s: deadline of the whole answer in seconds.
        on_text: function that is called with each piece of the answer as it is decoded; None for no streaming.

    Raises:
        AnswerError: a file cannot be read, the gateway cannot be reached, or the gateway answered with an error.
    """
    with Client(url, api_key=api_key or "", timeout_s=timeout_s) as client:
        if on_text is None:
            return client.answer(images, question, video=video, **fields)
        with client.stream(images, question, video=video, **fields) as stream:
            for text in stream:
                on_text(text)
            return stream.answer


def explain(
    url: str,
    images: Medium | Sequence[Medium],
    question: str,
    *,
    video: Medium | None = None,
    api_key: str | None = None,
    timeout_s: float = 60,
    **fields: Any,
) -> Explanation:
    """Explanation of the visual tokens that would be kept for a question; see `Client.explain`.

    Args:
        url, images, question, video, api_key, timeout_s: see `ask`.
        fields: further fields of `/v1/explain`, such as keep_tokens=32, maps=True.

    Raises:
        AnswerError: a file cannot be read, the gateway cannot be reached, or the gateway answered with an error.
    """
    with Client(url, api_key=api_key or "", timeout_s=timeout_s) as client:
        return client.explain(images, question, video=video, **fields)
