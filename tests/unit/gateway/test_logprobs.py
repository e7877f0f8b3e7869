"""Log-probabilities of tokens in the core of the gateway: in the pieces, in the answer, bounded, and after a break."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from fovea.errors import InternalError, InvalidRequest, Unavailable
from fovea.v1 import llm_pb2
from gateway.clients.llm import GenerateDone, LLMClient
from gateway.core.answer import Answer, TextDelta, TokenLogprob, TopLogprob
from gateway.core.encode_spec import EncodeSpec
from gateway.core.generate_spec import Sampling
from gateway.core.question import Question
from gateway.core.question_text import QuestionText
from gateway.media.files import MediaFile
from tests.unit.gateway.conftest import Gateway, StartGateway, png
from tests.unit.gateway.services import delta
from tests.unit.gateway.test_hostile_replies import HostileServer, generate, hostile, llm  # noqa: F401  # fixtures
from tests.unit.gateway.test_retry import DONE, StartBreaking, breaking  # noqa: F401  # a fixture

BREAK = Unavailable("the link is gone")


def question(**changes: Any) -> Question:
    now = asyncio.get_running_loop().time()
    asked = Question(
        text=QuestionText("What colour is it?"),
        encode=EncodeSpec(images=(MediaFile.of(png()),)),
        sampling=Sampling(max_tokens=8),
        top_logprobs=2,
        arrived=now,
        deadline=now + 60,
    )
    return replace(asked, **changes)


async def ask(gateway: Gateway, **changes: Any) -> tuple[list[TextDelta], Answer]:
    *deltas, answer = [event async for event in gateway.app.state.gateway.answers.answer(question(**changes))]
    assert isinstance(answer, Answer)
    return [one for one in deltas if isinstance(one, TextDelta)], answer


async def test_pieces_carry_them_and_the_answer_has_all(gateway: Gateway) -> None:
    deltas, answer = await ask(gateway)
    assert gateway.llm.calls[0].top_logprobs == 2
    logprobs = [one for delta in deltas for one in delta.logprobs]
    assert tuple(logprobs) == answer.completion.logprobs
    assert b"".join(one.token for one in logprobs).decode() == answer.completion.text
    assert logprobs[0] == TokenLogprob(3, b"red", -0.5, (TopLogprob(0, b"t", 0.0), TopLogprob(1, b"t", -1.0)))


async def test_an_answer_has_none_unless_they_are_requested(gateway: Gateway) -> None:
    deltas, answer = await ask(gateway, top_logprobs=None)
    assert answer.completion.logprobs is None
    assert not any(delta.logprobs for delta in deltas)
    assert not gateway.llm.calls[0].HasField("top_logprobs")
    _, answer = await ask(gateway, top_logprobs=0)
    assert answer.completion.logprobs is not None
    assert {one.top for one in answer.completion.logprobs} == {()}


async def test_a_question_without_media_has_them_too(gateway: Gateway) -> None:
    _, answer = await ask(gateway, encode=EncodeSpec())
    assert answer.completion.logprobs
    assert answer.costs.answer == "skip"
    assert not gateway.encoder.calls


async def test_an_answer_with_them_is_neither_cached_nor_shared(gateway: Gateway) -> None:
    await ask(gateway, top_logprobs=None)
    (_, first), (_, second) = await asyncio.gather(ask(gateway), ask(gateway))
    assert (first.costs.answer, second.costs.answer) == ("skip", "skip")
    assert len(gateway.llm.calls) == 3
    _, cached = await ask(gateway, top_logprobs=None)
    assert (cached.costs.answer, cached.completion.logprobs) == ("hit", None)


async def test_a_service_that_is_older_than_an_option_is_not_asked(start_gateway: StartGateway) -> None:
    gateway = await start_gateway()
    gateway.llm.info.newest_request_field = 0
    with pytest.raises(InvalidRequest, match="the LLM service is older") as caught:
        await ask(gateway)
    assert caught.value.param == "top_logprobs"
    gateway.llm.info.sampling_parameters.remove("ignore_eos")
    with pytest.raises(InvalidRequest, match="does not have it") as caught:
        await ask(await start_gateway(), top_logprobs=None, sampling=Sampling(max_tokens=8, ignore_eos=True))
    assert caught.value.param == "ignore_eos"
    assert not gateway.llm.calls


@pytest.mark.parametrize("number", [-1, 21, 2**32])
async def test_a_number_out_of_range_is_refused(gateway: Gateway, number: int) -> None:
    with pytest.raises(InvalidRequest, match=f"top_logprobs must be 0 to 20, not {number}"):
        await ask(gateway, top_logprobs=number)


async def test_a_broken_stream_repeats_and_loses_none(breaking: StartBreaking) -> None:  # noqa: F811
    """The second attempt is cut elsewhere, and its numbers differ by a rounding error."""
    gateway, _, _ = await breaking(
        [delta("red", "r", "ed"), delta("", ""), BREAK],
        [delta("r", "r", logprob=-0.25), BREAK],
        [delta("re", "r", "ed", logprob=-0.25), delta("d", ""), delta(" star", " star", logprob=-0.25)],
    )
    deltas, answer = await ask(gateway)
    assert [(one.text, [entry.token for entry in one.logprobs]) for one in deltas] == [
        ("red", [b"r", b"ed"]),
        ("", [b""]),
        (" star", [b" star"]),
    ]
    assert answer.completion.logprobs is not None
    assert [entry.logprob for entry in answer.completion.logprobs] == [-0.5, -0.5, -0.5, -0.25]


async def test_tokens_without_text_are_progress(breaking: StartBreaking) -> None:  # noqa: F811
    """Each attempt gets one token further than the one before, more often than attempts without progress are made."""
    scripts = [[*([delta("", "")] * i), BREAK] for i in range(1, 9)]
    gateway, llm_service, _ = await breaking(*scripts, [*([delta("", "")] * 9), delta("red", "red")], patience_s=3600.0)
    deltas, _ = await ask(gateway, sampling=Sampling(max_tokens=16))
    assert [len(one.logprobs) for one in deltas] == [1] * 10
    assert len(llm_service.calls) == 9


@pytest.mark.parametrize(
    "second", [[delta("re", "re"), delta("d star", "d star")], [delta("red", "red")]], ids=["other tokens", "fewer"]
)
async def test_a_retry_with_other_tokens_ends_the_answer(
    breaking: StartBreaking,  # noqa: F811
    second: list[Any],
) -> None:
    gateway, _, _ = await breaking([delta("red", "r", "ed"), BREAK], second)
    with pytest.raises(InternalError, match="came out differently"):
        await ask(gateway)


def replies(*deltas: llm_pb2.Delta) -> Iterator[bytes]:
    for one in deltas:
        yield llm_pb2.GenerateResponse(delta=one).SerializeToString()
    yield DONE.SerializeToString()


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        (delta("red", "red", logprob=float("nan")), "not numbers"),
        (delta("red", "red", logprob=float("-inf")), "not numbers"),
        (delta("red", "red", num_top=3), "more than requested"),
        (delta("red"), "without the log-probabilities"),
    ],
    ids=["nan", "infinite", "too many", "none"],
)
async def test_replies_that_are_not_what_was_requested_are_a_defect(
    hostile: HostileServer,  # noqa: F811
    llm: LLMClient,  # noqa: F811
    invalid: llm_pb2.Delta,
    message: str,
) -> None:
    hostile.replies = lambda: replies(invalid)
    with pytest.raises(InternalError, match=message):
        await generate(llm, top_logprobs=2)


async def test_none_are_read_unless_they_are_requested(hostile: HostileServer, llm: LLMClient) -> None:  # noqa: F811
    hostile.replies = lambda: replies(delta("red", "red", num_top=9))
    piece, done = await generate(llm)
    assert piece == TextDelta("red")
    assert isinstance(done, GenerateDone)


async def test_long_tokens_and_many_messages_are_within_the_bounds(
    hostile: HostileServer,  # noqa: F811
    llm: LLMClient,  # noqa: F811
) -> None:
    """A token for each of the most probable ones, all of them as long as tokens can be, and held back to the end."""
    token = "x" * 2000
    one = delta("", token, num_top=20)
    for top in one.logprobs[0].top:
        top.token = token.encode()
    deltas = [llm_pb2.Delta(text=token if i == 0 else "", logprobs=[one.logprobs[0]] * 256) for i in range(4)]
    hostile.replies = lambda: replies(*deltas)
    pieces = (await generate(llm, max_tokens=1024, top_logprobs=20))[:-1]
    assert sum(len(piece.logprobs) for piece in pieces) == 1024


async def test_log_probabilities_that_never_end_are_ended(hostile: HostileServer, llm: LLMClient) -> None:  # noqa: F811
    hostile.replies = lambda: replies(*([delta("", "x" * 2000, num_top=20)] * 10_000))
    with pytest.raises(InternalError, match="more than was requested"):
        await generate(llm, top_logprobs=20)
