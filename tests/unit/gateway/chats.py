"""Requests in OpenAI's format, and their streams read as clients read them."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.unit.gateway.conftest import Gateway, data_url, png

PATH = "/v1/chat/completions"


def image_part(shade: int = 0, **extra: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(png(shade)), **extra}}


def text_part(text: str = "What colour is it?") -> dict[str, Any]:
    return {"type": "text", "text": text}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts) or [text_part(), image_part()]}


def chat(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A JSON body."""
    return {"model": "tiny-llava", "messages": list(messages) or [user()], **fields}


async def complete(gateway: Gateway, body: dict[str, Any]) -> dict[str, Any]:
    """The completion, which must succeed."""
    response = await gateway.http.post(PATH, json=body, headers={"authorization": "Bearer sk-none"})
    assert response.status_code == 200, response.text
    return dict(response.json())


async def refused(gateway: Gateway, status: int, body: dict[str, Any]) -> dict[str, Any]:
    """The error of a request that must fail with `status`."""
    response = await gateway.http.post(PATH, json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) - {"retry_after_s"} == {"message", "type", "param", "code"}
    return dict(error)


async def streamed(gateway: Gateway, body: dict[str, Any]) -> httpx.Response:
    response = await gateway.http.post(PATH, json=body | {"stream": True})
    assert response.status_code == 200, response.text
    return response


def chunks_of(text: str) -> list[dict[str, Any]]:
    """Chunks of a stream, which must end with [DONE]."""
    *data, done = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert done == "[DONE]"
    return [json.loads(line) for line in data]
