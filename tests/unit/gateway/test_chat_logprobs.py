"""Log-probabilities and `ignore_eos` in OpenAI's format."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.gateway.chats import chat, chunks_of, complete, refused, streamed
from tests.unit.gateway.conftest import Gateway

FIRST = {
    "token": "red",
    "logprob": -0.5,
    "bytes": [114, 101, 100],
    "top_logprobs": [
        {"token": "t", "logprob": 0.0, "bytes": [116]},
        {"token": "t", "logprob": -1.0, "bytes": [116]},
    ],
}


async def test_a_completion_has_them_for_each_token(gateway: Gateway) -> None:
    completion = await complete(gateway, chat(logprobs=True, top_logprobs=2))
    (choice,) = completion["choices"]
    assert choice["logprobs"]["refusal"] is None
    assert choice["logprobs"]["content"][0] == FIRST
    text = b"".join(bytes(token["bytes"]) for token in choice["logprobs"]["content"]).decode()
    assert text == choice["message"]["content"]


@pytest.mark.parametrize("top_logprobs", [None, 0])
async def test_without_alternatives_only_the_chosen_token_is_reported(gateway: Gateway, top_logprobs: Any) -> None:
    completion = await complete(gateway, chat(logprobs=True, top_logprobs=top_logprobs))
    assert completion["choices"][0]["logprobs"]["content"][0] == FIRST | {"top_logprobs": []}
    assert gateway.llm.calls[0].top_logprobs == 0


async def test_a_stream_has_them_beside_the_text_of_the_tokens(gateway: Gateway) -> None:
    chunks = chunks_of((await streamed(gateway, chat(logprobs=True, top_logprobs=2))).text)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["logprobs"] is choices[-1]["logprobs"] is None
    for choice in choices[1:-1]:
        tokens = choice["logprobs"]["content"]
        assert b"".join(bytes(token["bytes"]) for token in tokens).decode() == choice["delta"]["content"]


async def test_they_are_computed_for_each_request(gateway: Gateway) -> None:
    for _ in range(2):
        await complete(gateway, chat(logprobs=True))
    assert len(gateway.llm.calls) == 2
    await complete(gateway, chat())
    assert len(gateway.llm.calls) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_logprobs": 2}, "top_logprobs goes with logprobs true"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs goes with logprobs true"),
        ({"logprobs": True, "top_logprobs": 21}, "at most 20 is accepted"),
        ({"logprobs": True, "top_logprobs": -1}, "at least 0 is accepted"),
        ({"logprobs": 3}, "true or false is accepted"),
    ],
)
async def test_what_is_accepted_is_said(gateway: Gateway, fields: dict[str, Any], message: str) -> None:
    error = await refused(gateway, 422, chat(**fields))
    assert message in error["message"]
    assert error["param"] in ("logprobs", "top_logprobs")
    assert not gateway.llm.calls


async def test_an_older_llm_service_is_named(gateway: Gateway) -> None:
    gateway.llm.info.newest_request_field = 0
    error = await refused(gateway, 422, chat(logprobs=True))
    assert error["param"] == "top_logprobs"
    assert "older than this option" in error["message"]


async def test_end_tokens_are_ignored_only_if_asked_for(gateway: Gateway) -> None:
    await complete(gateway, chat())
    await complete(gateway, chat(ignore_eos=False))
    assert len(gateway.llm.calls) == 1
    await complete(gateway, chat(ignore_eos=True))
    assert [call.sampling.ignore_eos for call in gateway.llm.calls] == [False, True]
