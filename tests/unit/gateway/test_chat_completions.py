"""`POST /v1/chat/completions`: the forms of a completion and of a stream, and turns of a chat."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from fovea.errors import Overloaded, UnsupportedMedia
from gateway.http.schemas.chat import ChatCompletionRequest
from gateway.http.schemas.chat_response import ChatCompletion, ChatCompletionChunk
from tests.unit.gateway.chats import PATH, chat, chunks_of, complete, image_part, refused, streamed, text_part, user
from tests.unit.gateway.conftest import Gateway, StartGateway, ask, data_url, png


async def test_a_completion_has_openais_form(gateway: Gateway) -> None:
    completion = await complete(gateway, chat())
    answer = await gateway.answer(cache="bypass")
    request = gateway.llm.calls[0]
    prompt_tokens = len(request.input_ids) - 1 + 3
    assert completion.pop("id").startswith("chatcmpl-")
    assert completion.pop("created") > 1_700_000_000
    assert completion == {
        "object": "chat.completion",
        "model": "tiny-llava",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer["answer"], "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": 3,
            "total_tokens": prompt_tokens + 3,
            "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 3, "image_tokens_before": 6},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


async def test_a_stream_is_openais_byte_for_byte(gateway: Gateway) -> None:
    response = await streamed(gateway, chat())
    assert response.headers["content-type"].startswith("text/event-stream")
    first = json.loads(response.text.split("\n\n")[0].removeprefix("data: "))
    name, created = first["id"], first["created"]
    assert name.startswith("chatcmpl-")
    # Pieces that are decoded before the client takes the next one arrive as one.
    pieces = [chunk["choices"][0]["delta"].get("content") for chunk in chunks_of(response.text)[1:-1]]
    assert "".join(pieces) == (await complete(gateway, chat()))["choices"][0]["message"]["content"]
    head = f'"id":"{name}","object":"chat.completion.chunk","created":{created},"model":"tiny-llava"'
    deltas = [
        ('{"role":"assistant","content":""}', "null"),
        *((f'{{"content":"{piece}"}}', "null") for piece in pieces),
        ("{}", '"stop"'),
    ]
    expected = [
        f'data: {{{head},"choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}]}}\n\n'
        for delta, reason in deltas
    ]
    assert response.text == "".join([*expected, "data: [DONE]\n\n"])


async def test_the_usage_comes_last_and_only_if_it_is_asked_for(gateway: Gateway) -> None:
    plain = chunks_of((await streamed(gateway, chat())).text)
    assert all(len(chunk["choices"]) == 1 and "usage" not in chunk for chunk in plain)
    for options in ({}, {"include_usage": False}, {"include_usage": None}, None):
        same = chunks_of((await streamed(gateway, chat(stream_options=options))).text)
        assert all(chunk["choices"] and "usage" not in chunk for chunk in same)
    with_usage = chat(stream_options={"include_usage": True, "continuous_usage_stats": True})
    *chunks, last = chunks_of((await streamed(gateway, with_usage)).text)
    assert all(chunk["choices"] and chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == (await complete(gateway, chat()))["usage"]
    assert all(ChatCompletionChunk.model_validate(chunk) for chunk in [*chunks, last])
    assert {(chunk["id"], chunk["created"]) for chunk in chunks} == {(last["id"], last["created"])}


async def test_a_cached_answer_is_streamed_alike(gateway: Gateway) -> None:
    texts = []
    for _ in range(2):
        first, *content, end = chunks_of((await streamed(gateway, chat())).text)
        assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert end["choices"][0]["finish_reason"] == "stop"
        texts.append("".join(chunk["choices"][0]["delta"]["content"] for chunk in content))
    assert texts[0] == texts[1]
    assert len(gateway.llm.calls) == 1


async def test_an_answer_without_text_has_a_role_and_an_end(gateway: Gateway) -> None:
    gateway.llm.no_text = True
    chunks = chunks_of((await streamed(gateway, chat())).text)
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [{"role": "assistant", "content": ""}, {}]
    assert (await complete(gateway, chat()))["choices"][0]["message"]["content"] == ""


async def test_the_role_comes_with_the_first_token(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True)
    gateway.llm.gate.shut()
    async with gateway.http.stream("POST", PATH, json=chat(stream=True)) as response:
        lines = (line async for line in response.aiter_lines() if line)
        deltas = [json.loads((await anext(lines)).removeprefix("data: "))["choices"][0]["delta"] for _ in range(2)]
        assert deltas == [{"role": "assistant", "content": ""}, {"content": "red"}]
        gateway.llm.gate.open()
        assert [line async for line in lines][-1] == "data: [DONE]"


async def test_an_error_in_the_middle_of_a_stream_is_data_and_nothing_follows(gateway: Gateway) -> None:
    gateway.llm.late_error = UnsupportedMedia("late", param="images")
    response = await streamed(gateway, chat())
    *_, last = [line for line in response.text.split("\n") if line]
    assert json.loads(last.removeprefix("data: ")) == {
        "error": {
            "message": "late",
            "type": "invalid_request_error",
            "param": "messages.0.content.1.image_url",
            "code": "unsupported_media",
        }
    }
    assert "[DONE]" not in response.text


async def test_an_error_before_the_first_token_is_a_response(gateway: Gateway) -> None:
    gateway.encoder.error = UnsupportedMedia("not an image", param="image")
    assert (await refused(gateway, 415, chat(stream=True)))["param"] == "messages.0.content.1.image_url"


async def test_an_error_in_the_middle_of_a_stream_has_the_time_to_retry(gateway: Gateway) -> None:
    gateway.llm.late_error = Overloaded("the queue is full", retry_after_s=2.5)
    response = await streamed(gateway, chat())
    last = json.loads(response.text.strip().splitlines()[-1].removeprefix("data: "))
    assert (last["error"]["code"], last["error"]["retry_after_s"]) == ("overloaded", 3)


async def test_lines_of_a_stream_are_json_however_a_client_splits_them(gateway: Gateway) -> None:
    ends = "".join(chr(code) for code in range(0x3000) if len(f"a{chr(code)}b".splitlines()) > 1)
    gateway.llm.first = ends
    response = await streamed(gateway, chat())
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert data.pop() == "[DONE]"
    assert json.loads(data[1])["choices"][0]["delta"]["content"] == ends


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_the_work(start_gateway: StartGateway, stream: bool) -> None:
    gateway = await start_gateway(over_tcp=True)
    gateway.llm.gate.shut()
    request = asyncio.create_task(gateway.http.post(PATH, json=chat(stream=stream)))
    await gateway.llm.gate.reached.wait()
    request.cancel()
    async with asyncio.timeout(10):
        await gateway.llm.cancelled.wait()


async def test_the_same_question_has_one_answer_on_both_surfaces(gateway: Gateway) -> None:
    history = [user(text_part(), image_part())]
    response = await gateway.http.post("/v1/answer", json={"messages": history, "max_tokens": 7})
    assert response.status_code == 200, response.text
    completion = await complete(gateway, chat(*history, max_tokens=7))
    assert completion["choices"][0]["message"]["content"] == response.json()["answer"]
    assert len(gateway.llm.calls) == 1  # the second one is an answer hit


async def test_parts_keep_their_order_and_media_their_turns(gateway: Gateway) -> None:
    await complete(
        gateway,
        chat(
            {"role": "developer", "content": "Answer briefly."},
            user(image_part(1), text_part("first"), image_part(2)),
            {"role": "assistant", "content": [text_part("red")]},
            user(text_part("second"), image_part(3)),
        ),
    )
    assert list(gateway.encoder.calls[0].images) == [png(1), png(2), png(3)]
    same = await gateway.http.post(
        "/v1/answer",
        json={
            "messages": [
                {"role": "system", "content": "Answer briefly."},
                user(image_part(1), text_part("first"), image_part(2)),
                {"role": "assistant", "content": "red"},
                user(text_part("second"), image_part(3)),
            ],
            "cache": "bypass",
        },
    )
    assert same.status_code == 200, same.text
    assert gateway.llm.calls[0].input_ids == gateway.llm.calls[1].input_ids
    assert gateway.encoder.calls[0].text_ids == gateway.encoder.calls[1].text_ids


async def test_content_may_be_a_string_and_that_of_an_assistant_null_or_empty(gateway: Gateway) -> None:
    for content in (None, "", []):
        await complete(
            gateway,
            chat(
                {"role": "system", "content": "Answer briefly."},
                user(image_part(), text_part("first"), text_part("")),
                {"role": "assistant", "content": content, "tool_calls": None, "refusal": None, "name": "fovea"},
                {"role": "user", "content": "second", "name": "ada"},
            ),
        )
    assert len(gateway.llm.calls) == 1  # the three have the same prompt


async def test_markers_and_special_tokens_in_texts_are_plain_text(gateway: Gateway) -> None:
    for text in ("what", "what <image></s>"):
        await complete(gateway, chat(user(image_part(), text_part(text))))
    plain, injected = ([i for i in call.input_ids if i < 5] for call in gateway.llm.calls)
    assert plain == injected


async def test_a_video_for_a_model_that_takes_none_is_named(gateway: Gateway) -> None:
    video = {"type": "video_url", "video_url": {"url": data_url(b"\0\0\0\x18ftypmp42", "video/mp4")}}
    error = await refused(gateway, 422, chat(user(video, text_part())))
    assert (error["param"], "takes no videos" in error["message"]) == ("messages.0.content.0.video_url", True)


async def test_the_report_of_fovea_comes_if_its_field_was_sent(gateway: Gateway) -> None:
    completion = await complete(gateway, chat(fovea={"explain": True}))
    answer = await gateway.answer(explain=True)
    assert completion["fovea"]["explain"] == answer["explain"]
    assert set(completion["fovea"]) == {"cache", "timing_ms", "wire_dtype", "wire_bytes", "viewed", "explain"}
    assert completion["fovea"]["wire_bytes"] == answer["usage"]["wire_bytes"]
    *chunks, end = chunks_of((await streamed(gateway, chat(fovea={}))).text)
    assert not any("fovea" in chunk for chunk in chunks)
    assert end["choices"][0]["finish_reason"] == "stop"
    assert end["fovea"]["cache"]["features"] == "miss"


async def test_docs_describe_the_path_with_examples(gateway: Gateway) -> None:
    document = (await gateway.http.get("/openapi.json")).json()
    operation = document["paths"][PATH]["post"]
    body = operation["requestBody"]["content"]["application/json"]
    assert all(field.get("description") for field in body["schema"]["properties"].values())
    assert ChatCompletionRequest.model_validate(body["example"])
    content = operation["responses"]["200"]["content"]
    assert ChatCompletion.model_validate(content["application/json"]["example"])
    chunk = re.fullmatch(r"data: (.*)\n\n", content["text/event-stream"]["example"])
    assert chunk is not None
    assert ChatCompletionChunk.model_validate_json(chunk[1])


async def test_a_form_is_not_accepted(gateway: Gateway) -> None:
    response = await gateway.http.post(PATH, files={"image": png()}, data={"model": "tiny-llava"})
    assert response.status_code == 415
    assert "application/json" in response.json()["error"]["message"]


async def test_other_surfaces_still_want_media(gateway: Gateway) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
    assert (await gateway.refused(422, body))["param"] == "messages"
    body = ask()
    del body["image"]
    assert (await gateway.refused(422, body))["param"] == "image"
