"""OpenAI's own clients, for Python and for JavaScript."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from fovea.processes.stack import Stack
from tests.clients.environments import PROGRAMS, folder, run
from tests.clients.own_answers import QUESTION, ask, data_url, post

Transcript = dict[str, Any]
# OpenAI's clients have no class of their own for 415.
CLASSES = {404: {"NotFoundError"}, 415: {"APIStatusError", "APIError"}, 422: {"UnprocessableEntityError"}}


@pytest.fixture(scope="module", params=["openai", "openai-node"])
def transcript(
    request: pytest.FixtureRequest, stack: Stack, images: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Transcript:
    """What came back of all calls of a client."""
    words = [stack.url, "fovea-lab", *map(str, images)]
    if request.param == "openai":
        output = run(
            "openai", "python", str(PROGRAMS / "openai_client.py"), *words, cwd=tmp_path_factory.mktemp("python")
        )
    else:
        output = run("openai-node", "node", str(PROGRAMS / "openai_client.mjs"), *words, cwd=folder() / "openai-node")
    read: Transcript = json.loads(output)
    return read


def _check(completion: Transcript, own: dict[str, Any]) -> None:
    """Checks that a completion has the text and the counts of an answer of `/v1/answer`."""
    usage, own_usage = completion["usage"], own["usage"]
    assert completion["text"] == own["answer"]
    assert completion["finish_reason"] == own["finish_reason"]
    assert usage["prompt_tokens"] == own_usage["prompt_tokens"]
    assert usage["completion_tokens"] == own_usage["completion_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    details = usage["prompt_tokens_details"]
    assert details["image_tokens"] == own_usage["visual_tokens_kept"]
    assert details["image_tokens_before"] == own_usage["visual_tokens_total"]


def test_the_model_and_its_aliases_are_listed(transcript: Transcript) -> None:
    names = ["fovea-lab", "fovea-lab@none", "fovea-lab@desap:16"]
    assert transcript["models"] == [{"id": name, "object": "model"} for name in names]
    assert transcript["retrieved"] == "fovea-lab"


def test_a_completion_is_the_answer_of_fovea(transcript: Transcript, http: httpx.Client, images: list[Path]) -> None:
    whole = transcript["whole"]
    _check(whole, ask(http, images[:1]))
    assert (whole["role"], whole["object"], whole["model"]) == ("assistant", "chat.completion", "fovea-lab")


def test_a_stream_has_the_text_of_the_completion(transcript: Transcript) -> None:
    streamed = transcript["streamed"]
    assert streamed["text"] == transcript["whole"]["text"]
    *earlier, last = streamed["finish_reasons"]
    assert last == "stop"
    assert set(earlier) == {None}
    assert len(earlier) > 2
    assert streamed["objects"] == ["chat.completion.chunk"]
    assert streamed["usages"] == []


def test_a_stream_ends_with_usage_if_it_is_asked_for(transcript: Transcript) -> None:
    streamed = transcript["streamed_with_usage"]
    assert streamed["text"] == transcript["whole"]["text"]
    assert streamed["usages"] == [transcript["whole"]["usage"]]


def test_a_turn_may_have_several_images(transcript: Transcript, http: httpx.Client, images: list[Path]) -> None:
    _check(transcript["several_images"], ask(http, images))


def test_earlier_turns_are_part_of_the_question(transcript: Transcript, http: httpx.Client, images: list[Path]) -> None:
    turn = [{"type": "image_url", "image_url": {"url": data_url(images[0])}}, {"type": "text", "text": QUESTION}]
    messages = [
        {"role": "user", "content": turn},
        {"role": "assistant", "content": "5"},
        {"role": "user", "content": "What color is the moon?"},
    ]
    _check(transcript["history"], post(http, {"messages": messages, "cache": "bypass"}))


@pytest.mark.parametrize("way", ["alias", "extra_body"])
def test_a_budget_is_given_by_name_and_by_field(
    transcript: Transcript, http: httpx.Client, images: list[Path], way: str
) -> None:
    own = ask(http, images[:1], pruner="desap", keep_tokens=9)
    assert own["usage"]["visual_tokens_kept"] == 9
    _check(transcript[way], own)


def test_an_answer_has_no_more_tokens_than_asked_for(transcript: Transcript) -> None:
    assert transcript["short"]["finish_reason"] == "length"
    assert transcript["short"]["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("call", "status", "param"),
    [
        ("unknown model", 404, "model"),
        ("unknown model in a stream", 404, "model"),
        ("unknown pruner", 404, "fovea.pruner"),
        ("temperature out of range", 422, "temperature"),
        ("no messages", 422, "messages"),
        ("not an image", 415, "messages.0.content.0.image_url"),
    ],
)
def test_errors_are_those_of_the_client(transcript: Transcript, call: str, status: int, param: str) -> None:
    error = transcript["errors"][call]
    assert (error["status"], error["param"]) == (status, param)
    assert error["class"] in CLASSES[status]
