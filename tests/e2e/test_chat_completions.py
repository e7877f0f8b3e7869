"""`POST /v1/chat/completions` of the three real services."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.conftest import Client, data_url

QUESTION = "Is there a red star?"


def _chat(picture: bytes | None, **fields: Any) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": QUESTION}]
    if picture is not None:
        content.append({"type": "image_url", "image_url": {"url": data_url(picture)}})
    return {"model": "fovea-lab", "messages": [{"role": "user", "content": content}], **fields}


def _completed(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    response = client.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_plain_and_streamed_completions_are_the_answer(client: Client, picture: bytes) -> None:
    bypass = {"fovea": {"cache": "bypass"}}
    answer = client.ask(picture, QUESTION, cache="bypass")
    completion = _completed(client, _chat(picture, max_tokens=16, **bypass))
    assert completion["choices"][0]["message"]["content"] == answer["answer"]
    assert completion["choices"][0]["finish_reason"] == answer["finish_reason"]
    usage = completion["usage"]
    assert usage["prompt_tokens"] == answer["usage"]["prompt_tokens"]
    assert usage["completion_tokens"] == answer["usage"]["completion_tokens"]
    details = usage["prompt_tokens_details"]
    assert (details["image_tokens"], details["image_tokens_before"]) == (16, 144)

    body = _chat(picture, stream=True, stream_options={"include_usage": True}, **bypass)
    response = client.http.post("/v1/chat/completions", json=body)
    *data, done = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    *chunks, last = [json.loads(line) for line in data]
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == answer["answer"]
    assert last["usage"] == usage


def test_a_budget_is_kept_by_name_and_by_field(client: Client, picture: bytes) -> None:
    for fields in ({"model": "fovea-lab@desap:20"}, {"fovea": {"pruner": "desap", "keep_tokens": 20}}):
        usage = _completed(client, {**_chat(picture), **fields})["usage"]
        assert usage["prompt_tokens_details"]["image_tokens"] == 20


def test_a_chat_without_images_is_answered(client: Client) -> None:
    completion = _completed(client, _chat(None, max_tokens=4))
    assert completion["usage"]["prompt_tokens_details"]["image_tokens"] == 0
    assert completion["usage"]["completion_tokens"] >= 1


def test_the_model_is_listed_with_its_context(client: Client) -> None:
    (card,) = client.http.get("/v1/models").json()["data"]
    assert card["id"] == "fovea-lab"
    assert card["max_model_len"] >= 1024
    assert client.http.get("/health").json() == {"status": "ok"}
