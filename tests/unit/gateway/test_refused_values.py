"""Cached values that a service refuses, or that no service can have given: they are removed and computed again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fovea.errors import CheckpointMismatch, InternalError, InvalidRequest, MalformedRequest, ServiceError, TooLarge
from fovea.v1 import encoder_pb2, tensor_pb2
from gateway.core.deadlines import now
from gateway.core.encode_spec import EncodeSpec
from gateway.core.generate_spec import Sampling
from gateway.core.question import Question
from gateway.core.question_text import QuestionText
from gateway.media.files import MediaFile
from tests.redis_server import RedisServer
from tests.unit.gateway.conftest import Gateway, StartGateway, ask, failures, png

REFUSAL = InvalidRequest("visual_tokens[0]: the checksum does not match", param="visual_tokens")


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["embedded", "redis"])
async def gateway(request: pytest.FixtureRequest, redis: RedisServer, start_gateway: StartGateway) -> Gateway:
    """A gateway whose cache has the visual tokens of `ask()`."""
    gateway = await start_gateway(**({} if request.param == "embedded" else {"redis_url": redis.url}))
    await gateway.answer()
    return gateway


def calls(gateway: Gateway) -> tuple[int, int]:
    """Number of calls to the encoder service and to the LLM service."""
    return len(gateway.encoder.calls), len(gateway.llm.calls)


@pytest.mark.parametrize(
    "error",
    [
        REFUSAL,
        InvalidRequest("too large", param="visual_tokens.positions"),
        TooLarge("too large", param="visual_tokens"),
        MalformedRequest("the bytes are not a message"),
        CheckpointMismatch("another checkpoint", param="visual_tokens"),
    ],
    ids=lambda error: f"{type(error).__name__}-{error.param}",
)
async def test_cached_visual_tokens_that_are_refused_are_encoded_again(gateway: Gateway, error: ServiceError) -> None:
    before = failures("cache_entry")
    gateway.llm.next_errors = [error]
    answer = await gateway.answer(max_tokens=5)
    assert answer["cache"] == {"answer": "miss", "visual_tokens": "miss", "features": "miss"}
    assert failures("cache_entry") == before + 1
    assert calls(gateway) == (2, 3)
    again = await gateway.answer(max_tokens=6)
    assert again["cache"]["visual_tokens"] == "hit"
    assert answer["usage"]["wire_bytes"] == 2 * again["usage"]["wire_bytes"]
    assert calls(gateway) == (2, 4)


async def test_the_second_refusal_is_the_error_of_the_request(gateway: Gateway) -> None:
    gateway.llm.next_errors = [REFUSAL, REFUSAL]
    error = await gateway.refused(422, max_tokens=5)
    assert error["message"] == REFUSAL.message
    assert calls(gateway) == (2, 3)


async def test_refused_visual_tokens_are_removed_even_if_new_ones_cannot_be_had(gateway: Gateway) -> None:
    gateway.llm.next_errors = [REFUSAL]
    gateway.encoder.error = InternalError("defect")
    await gateway.refused(502, max_tokens=5)
    gateway.encoder.error = None
    assert (await gateway.answer(max_tokens=5))["cache"]["visual_tokens"] == "miss"


@pytest.mark.parametrize("param", ["max_tokens", "input_ids", None])
async def test_a_refusal_of_another_field_leaves_the_cache_as_it_is(gateway: Gateway, param: str | None) -> None:
    before = failures("cache_entry")
    gateway.llm.next_errors = [InvalidRequest("not accepted", param=param)]
    await gateway.refused(422, max_tokens=5)
    assert calls(gateway) == (1, 2)
    assert failures("cache_entry") == before
    assert (await gateway.answer(max_tokens=5))["cache"]["visual_tokens"] == "hit"


async def test_new_visual_tokens_that_are_refused_are_not_encoded_again(gateway: Gateway) -> None:
    gateway.llm.next_errors = [REFUSAL]
    await gateway.refused(422, shade=9)
    assert calls(gateway) == (2, 2)


async def test_a_text_that_has_begun_is_not_repeated(gateway: Gateway) -> None:
    gateway.llm.late_error = REFUSAL
    response = await gateway.http.post("/v1/answer", json=ask(stream=True, max_tokens=5))
    assert "event: error" in response.text
    assert calls(gateway) == (1, 2)


async def test_attention_replaces_refused_visual_tokens_too(gateway: Gateway) -> None:
    question = Question(
        text=QuestionText(ask()["question"]),
        encode=EncodeSpec(images=(MediaFile.of(png()),)),
        sampling=Sampling(max_tokens=1),
        arrived=now(),
        deadline=now() + 30,
    )
    gateway.llm.next_errors = [REFUSAL]
    attention = await gateway.app.state.gateway.answers.attention(question, None)
    assert attention == pytest.approx([0.0, 0.01, 0.02])
    assert calls(gateway) == (2, 3)


def changed(**fields: Any) -> Callable[[dict[str, Any]], bytes]:
    return lambda answer: json.dumps({**answer, **fields}).encode()


@pytest.mark.parametrize(
    "value",
    [
        changed(finish_reason="because"),
        changed(prompt_tokens=-1),
        changed(completion_tokens=2**32),
        changed(visual_tokens_kept=10**300),
        changed(visual_tokens_by_layer=[3, -3]),
        changed(wire_dtype="float128"),
        changed(viewed=[[0.0, 0.0, float("nan"), 1.0]]),
        changed(viewed=[[0.0, 0.0, float("inf"), 1.0]]),
        changed(viewed=[[0.5, 0.0, 0.5, 1.0]]),
        changed(text=None),
        changed(text={"deep": 1}),
        changed(logprobs=[{"token_id": 1, "token": "x", "logprob": 0.0, "top": []}]),
        lambda answer: b"[" * 100_000,
        lambda answer: b'{"text":' * 100_000,
        lambda answer: json.dumps(answer).encode().replace(b'"stop"', b'"\\ud800"'),
    ],
)
async def test_a_cached_answer_that_no_service_can_have_given_is_a_counted_miss(
    start_gateway: StartGateway, value: Callable[[dict[str, Any]], bytes]
) -> None:
    gateway = await start_gateway()
    first = await gateway.answer()
    level = gateway.app.state.gateway.cache._levels["answer"]
    (key,) = level
    level[key] = value(json.loads(level[key]))
    before = failures("cache_entry")
    answer = await gateway.answer()
    assert (answer["answer"], answer["cache"]["answer"]) == (first["answer"], "miss")
    assert failures("cache_entry") == before + 1
    assert (await gateway.answer())["cache"]["answer"] == "hit"


@pytest.mark.parametrize("change", [{"kind": tensor_pb2.VISUAL_KIND_VIDEO}, {"fingerprint": "bbbb"}])
async def test_cached_visual_tokens_of_another_kind_or_checkpoint_are_a_counted_miss(
    start_gateway: StartGateway, change: dict[str, Any]
) -> None:
    gateway = await start_gateway()
    await gateway.answer()
    level = gateway.app.state.gateway.cache._levels["visual_tokens"]
    (key,) = level
    entry = encoder_pb2.EncodeResponse.FromString(level[key])
    for name, value in change.items():
        setattr(entry.visual_tokens[0], name, value)
    level[key] = entry.SerializeToString()
    before = failures("cache_entry")
    assert (await gateway.answer(max_tokens=5))["cache"]["visual_tokens"] == "miss"
    assert failures("cache_entry") == before + 1
    assert len(gateway.llm.calls) == 2, "the LLM service did not get the wrong ones"
