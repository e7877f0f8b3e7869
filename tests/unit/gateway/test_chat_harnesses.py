"""Requests of evaluation harnesses and load generators, field for field, read as these programs read them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from PIL import Image

from tests.unit.gateway.chats import PATH, chat, chunks_of, complete, image_part, refused, text_part, user
from tests.unit.gateway.conftest import Gateway, data_url, png

PNG = data_url(png())


def saved(form: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, form)
    return file.getvalue()


JPEG = data_url(saved("JPEG"), "image/jpeg")
WEBP = data_url(saved("WEBP"), "image/webp")


async def lines_of(gateway: Gateway, body: dict[str, Any], headers: dict[str, str]) -> list[str]:
    response = await gateway.http.post(PATH, json=body, headers=headers)
    assert response.status_code == 200, response.text
    return [line for line in response.text.split("\n") if line.strip()]


VLLM = {
    "model": "tiny-llava",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What colour is it?"},
                {"type": "image_url", "image_url": {"url": JPEG}},
                {"type": "image_url", "image_url": {"url": WEBP}},
            ],
        }
    ],
    "max_completion_tokens": 128,
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.0,
    "ignore_eos": True,
}


async def test_vllm_bench_serve(gateway: Gateway) -> None:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer EMPTY", "x-request-id": "bench-7"}
    text, first, output_tokens, done = "", None, None, False
    for line in await lines_of(gateway, VLLM, headers):
        assert not line.startswith(":")
        chunk = line.removeprefix("data: ")
        if chunk == "[DONE]":
            done = True
            continue
        data = json.loads(chunk)
        if choices := data.get("choices"):
            first = first or choices[0]["delta"]
            text += choices[0]["delta"].get("content") or ""
        elif usage := data.get("usage"):
            output_tokens = usage.get("completion_tokens")
    assert (first, output_tokens, done) == ({"role": "assistant", "content": ""}, 3, True)
    assert text.startswith("red ")
    assert len(gateway.encoder.calls[0].images) == 2


SGLANG = {
    "model": "tiny-llava",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": JPEG}},
                {"type": "text", "text": "What colour is it?"},
            ],
        }
    ],
    "temperature": 0.0,
    "max_completion_tokens": 16,
    "stream": True,
    "ignore_eos": True,
}


async def test_sglang_bench_serving(gateway: Gateway) -> None:
    text, reasons = "", []
    for line in await lines_of(gateway, SGLANG, {"Authorization": "Bearer None"}):
        chunk = line.strip().removeprefix("data: ")
        if chunk == "[DONE]":
            continue
        data = json.loads(chunk)  # of every line
        delta = data["choices"][0]["delta"]  # in every chunk
        text += delta.get("content") or ""
        reasons.append(data["choices"][0]["finish_reason"])
        usage = (data.get("usage") or {}).get("completion_tokens", 16)
        assert usage == 16
    assert text.startswith("red ")
    assert [reason for reason in reasons if reason] == ["stop"]


async def test_sglang_bench_serving_takes_the_name_from_the_list(gateway: Gateway) -> None:
    models = (await gateway.http.get("/v1/models")).json()
    name = models["data"][0]["id"]
    assert (await complete(gateway, {**SGLANG, "model": name, "stream": False}))["model"] == name


async def test_lmms_eval(gateway: Gateway) -> None:
    images = [{"type": "image_url", "image_url": {"url": data_url(png(i))}} for i in range(4)]
    body = {
        "model": "tiny-llava",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Yes or no?"}, *images]}],
        "max_tokens": 1024,
        "temperature": 0,
    }
    completion = await complete(gateway, body)
    assert completion["choices"][0]["message"]["content"].startswith("red ")
    usage = completion["usage"]
    assert usage["prompt_tokens"] > usage["prompt_tokens_details"]["image_tokens"] == 12
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 0
    del body["max_tokens"], body["temperature"]  # for names as of reasoning models
    again = await complete(gateway, {**body, "max_completion_tokens": 1024, "response_format": {"type": "text"}})
    assert again["choices"] == completion["choices"]


async def test_lmms_eval_sends_options_of_videos(gateway: Gateway) -> None:
    body = chat(chat_template_kwargs={"enable_thinking": False}, media_io_kwargs={"video": {"num_frames": 32}})
    await complete(gateway, body)


async def test_vlmevalkit_lmdeploy_api(gateway: Gateway) -> None:
    body = {
        "model": "tiny-llava@desap:64",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": JPEG, "min_pixels": 3136, "max_pixels": 12845056}},
                    {"type": "text", "text": "What colour is it?"},
                ],
            }
        ],
        "max_tokens": 16384,
        "n": 1,
        "temperature": 0,
    }
    completion = await complete(gateway, body)
    assert completion["choices"][0]["message"]["content"].strip().startswith("red ")
    assert gateway.llm.calls[0].sampling.max_tokens == 2048
    assert (gateway.encoder.calls[0].pruner, gateway.encoder.calls[0].keep_tokens) == ("desap", 64)


@pytest.mark.parametrize("detail", ["low", "high", "auto"])
async def test_vlmevalkit_openai_wrapper(gateway: Gateway, detail: str) -> None:
    body: dict[str, Any] = {
        "model": "tiny-llava",
        "messages": [
            {"role": "system", "content": "Answer briefly."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What colour is it?"},
                    {"type": "image_url", "image_url": {"url": JPEG, "detail": detail}},
                ],
            },
        ],
        "max_tokens": 2048,
        "n": 1,
        "temperature": 0,
    }
    whole = await complete(gateway, body)
    text = ""
    for line in await lines_of(gateway, {**body, "stream": True}, {}):
        assert line.startswith("data:")
        data = line[len("data:") :].strip()
        if data == "[DONE]":
            break
        text += json.loads(data)["choices"][0]["delta"].get("content", "")
    assert text == whole["choices"][0]["message"]["content"]


async def test_guidellm(gateway: Gateway) -> None:
    assert (await gateway.http.get("/health")).status_code == 200
    name = (await gateway.http.get("/v1/models")).json()["data"][0]["id"]
    body = {
        "model": name,
        "messages": [{"role": "user", "content": [text_part(), {"type": "image_url", "image_url": {"url": PNG}}]}],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": 8,
        "max_completion_tokens": 8,
        "stop": None,
        "ignore_eos": True,
    }
    *_, last = chunks_of("\n\n".join(await lines_of(gateway, body, {})))
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]
    audio = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    assert "'input_audio' is not accepted" in (await refused(gateway, 422, chat(user(text_part(), audio))))["message"]


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_aiperf(gateway: Gateway, limit: str) -> None:
    part = {**image_part(), "uuid": "img-0f3c"}
    body = {
        "messages": [{"role": "user", "name": "", "content": [text_part(), part]}],
        "model": "tiny-llava",
        "stream": True,
        "stream_options": {"include_usage": True},
        limit: 8,
    }
    chunks = chunks_of("\n\n".join(await lines_of(gateway, body, {"Accept": "text/event-stream"})))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    whole = await complete(gateway, {**body, "stream": False})
    assert whole["object"] == "chat.completion"
