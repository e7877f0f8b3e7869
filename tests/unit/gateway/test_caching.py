"""Both cache levels and single-flight, seen by a client, with the embedded cache and with Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from fovea.errors import DeadlineExceeded, InternalError, UnsupportedMedia
from fovea.v1 import encoder_pb2, tensor_pb2
from gateway.clients import base
from tests.redis_server import RedisServer
from tests.unit.gateway.conftest import Gateway, StartGateway, ask, failures


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["embedded", "redis"])
async def gateway(request: pytest.FixtureRequest, redis: RedisServer, start_gateway: StartGateway) -> Gateway:
    if request.param == "embedded":
        return await start_gateway()
    redis.command("FLUSHALL")
    return await start_gateway(redis_url=redis.url)


def calls(gateway: Gateway) -> tuple[int, int]:
    """Number of calls to the encoder service and to the LLM service."""
    return len(gateway.encoder.calls), len(gateway.llm.calls)


async def test_the_same_request_again_is_an_answer_hit(gateway: Gateway) -> None:
    first, again = await gateway.answer(), await gateway.answer()
    assert again["cache"] == {"answer": "hit", "visual_tokens": "skip", "features": "skip"}
    assert again["usage"] == first["usage"] | {"wire_bytes": 0}
    assert first["usage"]["wire_bytes"] > 0
    assert (again["answer"], again["finish_reason"]) == (first["answer"], first["finish_reason"])
    assert again["id"] != first["id"]
    assert calls(gateway) == (1, 1)


async def test_an_answer_hit_can_be_streamed(gateway: Gateway) -> None:
    first = await gateway.answer()
    response = await gateway.http.post("/v1/answer", json=ask(stream=True))
    assert response.text.startswith(f'event: token\ndata: {{"text":"{first["answer"]}"}}\n\nevent: done\n')
    assert calls(gateway) == (1, 1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"question": "What shape is it?"}, (2, 2)),
        ({"shade": 9}, (2, 2)),
        ({"keep_tokens": 3}, (2, 2)),
        ({"keep_tokens": "auto", "pruner": "fovea"}, (2, 2)),
        ({"pruner": "none"}, (2, 2)),
        ({"pruner_params": {"beta": 0.1}}, (2, 2)),
        ({"wire_dtype": "float32"}, (2, 2)),
        ({"max_wire_bytes": 4000}, (2, 2)),
        ({"max_tokens": 5}, (1, 2)),
        ({"stop": ["x"]}, (1, 2)),
        ({"temperature": 0.5, "seed": 1}, (1, 2)),
        ({"temperature": 0.5}, (1, 2)),
        ({"seed": 7}, (1, 1)),  # greedy: a seed changes nothing
        ({"keep_ratio": 0.5}, (1, 1)),  # equal to the default
        ({"image_fit": "pad"}, (2, 2)),
        ({"repetition_penalty": 1.05}, (1, 1)),  # equal to the checkpoint's
        ({"repetition_penalty": 1}, (1, 2)),
        ({"presence_penalty": 0.5}, (1, 2)),
        ({"frequency_penalty": 0.5}, (1, 2)),
        ({"top_k": 5, "min_p": 0.1}, (1, 1)),  # greedy: nothing is sampled
        ({"cache": "bypass"}, (2, 2)),
        ({"cache": "refresh"}, (2, 2)),
    ],
)
async def test_requests_that_are_computed_again(
    gateway: Gateway, change: dict[str, object], expected: tuple[int, int]
) -> None:
    await gateway.answer()
    await gateway.answer(**change)  # type: ignore[arg-type]
    assert calls(gateway) == expected


async def test_without_a_seed_sampling_is_never_served_from_the_answer_cache(gateway: Gateway) -> None:
    for _ in range(2):
        answer = await gateway.answer(temperature=0.5)
    assert answer["cache"] == {"answer": "skip", "visual_tokens": "hit", "features": "skip"}
    assert answer["usage"]["wire_bytes"] > 0
    assert calls(gateway) == (1, 2)


async def test_cached_visual_tokens_are_forwarded_as_they_were(gateway: Gateway) -> None:
    await gateway.answer()
    await gateway.answer(max_tokens=5)
    fresh, cached = gateway.llm.calls
    assert fresh.visual_tokens[0].SerializeToString() == cached.visual_tokens[0].SerializeToString()


@pytest.mark.parametrize("damage", ["empty", "no tokens", "no features", "bytes"])
async def test_a_damaged_entry_of_visual_tokens_is_a_miss(start_gateway: StartGateway, damage: str) -> None:
    gateway = await start_gateway()
    await gateway.answer()
    level = gateway.app.state.gateway.cache._levels["visual_tokens"]
    (key,) = level
    entry = encoder_pb2.EncodeResponse.FromString(level[key])
    if damage == "no tokens":
        del entry.visual_tokens[:]
    elif damage == "no features":
        entry.visual_tokens[0].ClearField("features")
    level[key] = {"empty": b"", "bytes": b"\xff" * 20}.get(damage, entry.SerializeToString())
    before = failures("cache_entry")
    answer = await gateway.answer(max_tokens=5)
    assert answer["cache"]["visual_tokens"] == "miss"
    assert failures("cache_entry") == before + 1
    assert (await gateway.answer(max_tokens=6))["cache"]["visual_tokens"] == "hit"


async def test_an_unresponsive_service_does_not_delay_cached_answers(gateway: Gateway) -> None:
    first = await gateway.answer()
    for client in (gateway.app.state.gateway.encoder, gateway.app.state.gateway.llm):
        client.invalidate_info()
    gateway.encoder.info_gate.shut()
    gateway.encoder.gate.shut()
    async with asyncio.timeout(base.INFO_TIMEOUT_S):
        again = await gateway.answer(timeout_s=base.INFO_TIMEOUT_S / 2)
    assert (again["cache"]["answer"], again["answer"]) == ("hit", first["answer"])


async def test_an_empty_answer_is_streamed_without_a_token(gateway: Gateway) -> None:
    gateway.llm.no_text = True
    for expected in ("miss", "hit"):
        response = await gateway.http.post("/v1/answer", json=ask(stream=True))
        assert response.text.startswith("event: done\n")
        assert f'"answer":"{expected}"' in response.text


async def test_pruners_that_read_no_text_share_visual_tokens_between_questions(gateway: Gateway) -> None:
    await gateway.answer(question="What colour?", pruner="none")
    answer = await gateway.answer(question="What shape?", pruner="none")
    assert answer["cache"]["visual_tokens"] == "hit"
    assert calls(gateway) == (1, 2)


async def test_bypass_does_not_fill_the_cache_and_refresh_does(gateway: Gateway) -> None:
    await gateway.answer(cache="bypass")
    assert (await gateway.answer())["cache"]["answer"] == "miss"
    refreshed = await gateway.answer(cache="refresh")
    assert refreshed["cache"] == {"answer": "skip", "visual_tokens": "skip", "features": "miss"}
    assert (await gateway.answer())["cache"]["answer"] == "hit"


@pytest.mark.parametrize("leg", ["encoder", "llm"])
async def test_another_checkpoint_makes_other_keys(gateway: Gateway, leg: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await gateway.answer()
    monkeypatch.setattr(base, "INFO_TTL_S", 0.0)
    state = gateway.app.state.gateway
    state.encoder.invalidate_info()
    state.llm.invalidate_info()
    getattr(gateway, leg).info.fingerprint = "bbbb"
    answer = await gateway.answer()
    assert answer["cache"]["answer"] == "miss"
    assert answer["cache"]["visual_tokens"] == ("miss" if leg == "encoder" else "hit")


async def test_visual_tokens_of_a_replaced_encoder_are_not_stored(gateway: Gateway) -> None:
    await gateway.answer(shade=1)
    gateway.encoder.info.fingerprint = "bbbb"  # restarted with another checkpoint a moment ago
    await gateway.answer(shade=2)
    gateway.encoder.info.fingerprint = "aaaa"
    assert (await gateway.answer(shade=2))["cache"] == {"answer": "miss", "visual_tokens": "miss", "features": "miss"}


async def test_identical_requests_in_progress_share_one_computation(gateway: Gateway) -> None:
    gateway.encoder.gate.shut()
    tasks = [asyncio.create_task(gateway.answer()) for _ in range(8)]
    await gateway.encoder.gate.reached.wait()
    gateway.encoder.gate.open()
    answers = await asyncio.gather(*tasks)
    assert calls(gateway) == (1, 1)
    assert len({answer["answer"] for answer in answers}) == 1
    assert len({answer["id"] for answer in answers}) == 8
    assert sorted(answer["cache"]["answer"] for answer in answers) == ["hit"] * 7 + ["miss"]
    assert sum(answer["usage"]["wire_bytes"] > 0 for answer in answers) == 1


async def test_requests_that_may_not_be_shared_are_not(gateway: Gateway) -> None:
    gateway.llm.gate.shut()
    tasks = [asyncio.create_task(gateway.answer(temperature=1.0)) for _ in range(3)]
    while len(gateway.llm.calls) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0)
    gateway.llm.gate.open()
    answers = await asyncio.gather(*tasks)
    assert all(answer["cache"]["answer"] == "skip" for answer in answers)


async def test_a_first_caller_that_leaves_does_not_cancel_the_answer(gateway: Gateway) -> None:
    gateway.encoder.gate.shut()
    first = asyncio.create_task(gateway.answer())
    await gateway.encoder.gate.reached.wait()
    second = asyncio.create_task(gateway.answer())
    await until_callers(gateway, 2)
    first.cancel()
    await asyncio.wait([first])
    gateway.encoder.gate.open()
    assert (await second)["answer"].startswith("red")
    assert calls(gateway) == (1, 1)


async def test_a_later_caller_takes_over_from_one_with_an_earlier_deadline(gateway: Gateway) -> None:
    gateway.llm.gate.shut()
    first = asyncio.create_task(gateway.http.post("/v1/answer", json=ask(timeout_s=0.3)))
    await gateway.llm.gate.reached.wait()
    second = asyncio.create_task(gateway.answer())
    await until_callers(gateway, 2)
    assert (await first).status_code == 504
    gateway.llm.gate.open()
    assert (await second)["answer"].startswith("red")
    assert len(gateway.llm.calls) <= 2


@pytest.mark.parametrize(
    ("error", "attempts"),
    [(UnsupportedMedia("no image"), 1), (InternalError("defect"), 2), (DeadlineExceeded("slow"), 4)],
)
async def test_callers_retry_only_errors_that_may_not_recur(gateway: Gateway, error: Exception, attempts: int) -> None:
    gateway.encoder.gate.shut()
    gateway.encoder.error = error  # type: ignore[assignment]
    tasks = [asyncio.create_task(gateway.http.post("/v1/answer", json=ask())) for _ in range(4)]
    await until_callers(gateway, 4)
    gateway.encoder.gate.open()
    responses: list[httpx.Response] = await asyncio.gather(*tasks)
    assert {response.json()["error"]["message"] for response in responses} == {str(error)}
    assert len(gateway.encoder.calls) == attempts


async def test_callers_of_one_computation_get_its_error_each_with_their_own_field(gateway: Gateway) -> None:
    gateway.encoder.gate.shut()
    gateway.encoder.error = UnsupportedMedia("no image", param="images")
    body = ask()
    image = body.pop("image")
    message = {"role": "user", "content": [{"type": "text", "text": body["question"]}]}
    message["content"].insert(0, {"type": "image_url", "image_url": {"url": image}})
    bodies = [{**body, "image": image}, {**body, "images": [image]}, {"messages": [message]}]
    tasks = [asyncio.create_task(gateway.http.post("/v1/answer", json=body)) for body in bodies]
    await until_callers(gateway, 3)
    gateway.encoder.gate.open()
    responses: list[httpx.Response] = await asyncio.gather(*tasks)
    assert [response.json()["error"]["param"] for response in responses] == ["image", "images", "messages"]
    assert len(gateway.encoder.calls) == 1


async def test_explanations_are_not_mixed_with_plain_visual_tokens(gateway: Gateway) -> None:
    assert (await gateway.answer(explain=True))["explain"]["kept"] == [0, 1, 2]
    plain = await gateway.answer()
    assert "explain" not in plain
    assert plain["cache"]["answer"] == "miss"
    assert gateway.encoder.calls[0].wire_dtype == tensor_pb2.DTYPE_FLOAT16


async def test_finished_computations_are_removed(gateway: Gateway) -> None:
    await gateway.answer()
    await gateway.refused(404, ask(pruner="magic"))
    flights = gateway.app.state.gateway.answers._flights
    assert not flights._flights
    assert not flights._private


async def until_callers(gateway: Gateway, count: int) -> None:
    """Returns when `count` callers wait for computations."""
    flights = gateway.app.state.gateway.answers._flights._flights
    while sum(flight.num_callers for flight in flights.values()) < count:  # noqa: ASYNC110
        await asyncio.sleep(0)
