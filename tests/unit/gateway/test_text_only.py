"""Chats without media: no call to the encoder service."""

from __future__ import annotations

import pytest

from fovea.v1 import llm_pb2
from tests.unit.gateway.chats import chat, chunks_of, complete, image_part, refused, streamed, text_part, user
from tests.unit.gateway.conftest import Gateway, StartGateway

HELLO = chat(user(text_part("hello")))


async def test_the_encoder_service_is_not_called(gateway: Gateway) -> None:
    completion = await complete(gateway, HELLO)
    assert completion["choices"][0]["message"]["content"].startswith("red ")
    assert (gateway.encoder.calls, gateway.encoder.info_calls) == ([], 0)
    request = gateway.llm.calls[0]
    assert not request.visual_tokens
    assert gateway.llm.info.image_token_id not in request.input_ids
    assert completion["usage"]["prompt_tokens"] == len(request.input_ids)
    details = completion["usage"]["prompt_tokens_details"]
    assert details == {"cached_tokens": 0, "image_tokens": 0, "image_tokens_before": 0}


async def test_the_encoder_service_may_be_away(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(patience_s=0)
    await gateway.servers["encoder"].grpc.stop(0)
    await complete(gateway, HELLO)
    await refused(gateway, 503, chat())


async def test_a_stream_says_the_same(gateway: Gateway) -> None:
    body = HELLO | {"stream_options": {"include_usage": True}}
    *chunks, usage = chunks_of((await streamed(gateway, body)).text)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    completion = await complete(gateway, HELLO)
    assert (text, usage["usage"]) == (completion["choices"][0]["message"]["content"], completion["usage"])


async def test_answers_are_cached_by_prompt_and_sampling(gateway: Gateway) -> None:
    for _ in range(2):
        await complete(gateway, HELLO)
    assert len(gateway.llm.calls) == 1
    # What belongs to images is not part of the key.
    await complete(gateway, HELLO | {"fovea": {"pruner": "none", "keep_ratio": 0.5}})
    await complete(gateway, HELLO | {"model": "tiny-llava@desap:64"})
    assert len(gateway.llm.calls) == 1
    for other in (HELLO | {"max_tokens": 3}, chat(user(text_part("hallo"))), HELLO | {"fovea": {"cache": "bypass"}}):
        await complete(gateway, other)
    assert len(gateway.llm.calls) == 4


async def test_another_llm_service_has_other_answers(start_gateway: StartGateway) -> None:
    gateway = await start_gateway()
    await complete(gateway, HELLO)
    gateway.llm.info.settings_fingerprint = "gggg"
    other = await start_gateway()
    await complete(other, HELLO)
    assert len(gateway.llm.calls) == 2


async def test_the_report_has_no_visual_tokens(gateway: Gateway) -> None:
    completion = await complete(gateway, HELLO | {"fovea": {"explain": True, "num_frames": None}})
    report = completion["fovea"]
    assert report["cache"] == {"answer": "miss", "visual_tokens": "skip", "features": "skip"}
    assert (report["wire_dtype"], report["wire_bytes"]) == ("", 0)
    assert "explain" not in report
    assert report["timing_ms"]["encode"] == 0


async def test_a_pruner_inside_the_language_model_has_nothing_to_prune(gateway: Gateway) -> None:
    second = {"name": "fastv", "keep_tokens": 1}
    await complete(gateway, HELLO | {"fovea": {"llm_pruner": second}})
    assert not gateway.llm.calls[0].HasField("llm_pruner")
    error = await refused(gateway, 404, HELLO | {"fovea": {"llm_pruner": second | {"name": "fasttv"}}})
    assert error["param"] == "fovea.llm_pruner"


async def test_a_chat_may_get_its_image_later(gateway: Gateway) -> None:
    history = [user(text_part("hello")), {"role": "assistant", "content": "hi"}]
    await complete(gateway, chat(*history, user(text_part("more"))))
    await complete(gateway, chat(*history, user(text_part("more"), image_part())))
    assert [len(call.visual_tokens) for call in gateway.llm.calls] == [0, 1]


async def test_a_text_that_is_too_long_says_by_how_much(gateway: Gateway) -> None:
    gateway.llm.info.max_model_len = 8
    error = await refused(gateway, 422, HELLO)
    assert (error["param"], "more than the model's context of 8" in error["message"]) == ("messages", True)


async def test_a_parameter_that_the_engine_lacks_is_refused(gateway: Gateway) -> None:
    del gateway.llm.info.sampling_parameters[:]
    gateway.llm.info.sampling_parameters.extend(["temperature", "top_p", "seed", "stop"])
    gateway.llm.info.default_sampling.CopyFrom(llm_pb2.SamplingParams(temperature=0))
    assert (await refused(gateway, 422, HELLO | {"min_p": 0.5}))["param"] == "min_p"


@pytest.mark.parametrize("path", ["/v1/answer", "/v1/explain"])
async def test_surfaces_about_images_still_want_one(gateway: Gateway, path: str) -> None:
    response = await gateway.http.post(path, json={"messages": [{"role": "user", "content": "hello"}]})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "messages")
