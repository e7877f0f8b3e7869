"""Questions of two tenants: no cache and no computation in progress serves the results of one to the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from gateway.core.answer import Answer
from gateway.core.deadlines import now
from gateway.core.encode_spec import EncodeSpec
from gateway.core.generate_spec import Sampling
from gateway.core.question import Question
from gateway.core.question_text import QuestionText
from gateway.media.files import MediaFile
from tests.redis_server import RedisServer
from tests.unit.gateway.conftest import Gateway, StartGateway, png


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["embedded", "redis"])
async def gateway(request: pytest.FixtureRequest, redis: RedisServer, start_gateway: StartGateway) -> Gateway:
    return await start_gateway(**({} if request.param == "embedded" else {"redis_url": redis.url}))


def question_of(tenant: str, *, images: int = 1) -> Question:
    return Question(
        text=QuestionText("What colour is it?"),
        encode=EncodeSpec(images=(MediaFile.of(png()),) * images),
        sampling=Sampling(max_tokens=5),
        arrived=now(),
        deadline=now() + 30,
        cache_salt=tenant,
    )


async def ask(gateway: Gateway, tenant: str, *, images: int = 1) -> Answer:
    async with aclosing(gateway.app.state.gateway.answers.answer(question_of(tenant, images=images))) as events:
        return [event async for event in events][-1]


def outcome(answer: Answer) -> tuple[str, str, str]:
    return answer.costs.answer, answer.costs.visual_tokens, answer.costs.features


async def test_the_second_tenant_misses_every_cache_and_the_first_hits(gateway: Gateway) -> None:
    first, second, again = [await ask(gateway, tenant) for tenant in ("a", "b", "a")]
    assert outcome(first) == outcome(second) == ("miss", "miss", "miss")
    assert outcome(again) == ("hit", "skip", "skip")
    assert first.completion == second.completion == again.completion
    assert [call.cache_salt for call in gateway.encoder.calls] == ["a", "b"]
    assert [call.cache_salt for call in gateway.llm.calls] == ["a", "b"]


async def test_a_question_without_media_has_an_answer_for_each_tenant(gateway: Gateway) -> None:
    answers = [await ask(gateway, tenant, images=0) for tenant in ("c", "d", "c", "")]
    assert [answer.costs.answer for answer in answers] == ["miss", "miss", "hit", "miss"]


async def test_tenants_do_not_share_a_computation_in_progress(gateway: Gateway) -> None:
    gateway.llm.gate.shut()
    tasks = [asyncio.create_task(ask(gateway, tenant)) for tenant in ("e", "f", "e")]
    while len(gateway.llm.calls) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    gateway.llm.gate.open()
    first, other, second = [answer.costs.answer for answer in await asyncio.gather(*tasks)]
    assert other == "miss"
    assert {first, second} == {"hit", "miss"}
    assert len(gateway.llm.calls) == 2


async def test_an_older_encoder_answers_every_tenant_and_its_cache_is_not_reported(start_gateway: StartGateway) -> None:
    """It keeps the features of all tenants together, and the response does not tell what is among them."""
    gateway = await start_gateway()
    gateway.encoder.info.newest_request_field = 13
    salted, unsalted = await ask(gateway, "a"), await ask(gateway, "")
    assert outcome(salted) == ("miss", "miss", "skip")
    assert outcome(unsalted) == ("miss", "miss", "miss")


async def test_visual_tokens_of_explanations_belong_to_a_tenant_too(gateway: Gateway) -> None:
    for tenant in ("g", "h", "g"):
        await gateway.app.state.gateway.answers.explain(question_of(tenant))
    assert [call.cache_salt for call in gateway.encoder.calls] == ["g", "h"]
