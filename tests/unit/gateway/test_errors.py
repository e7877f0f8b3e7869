"""Every error of the contract, with its message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from fovea.errors import (
    CheckpointMismatch,
    DeadlineExceeded,
    InternalError,
    Overloaded,
    ServiceError,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from fovea.v1 import encoder_pb2
from tests.unit.gateway.conftest import Gateway, StartGateway, ask, data_url, png
from tests.unit.gateway.services import serve


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"question": ""}, "question", "empty"),
        ({"question": "<image>"}, "question", "empty"),
        ({"question": "x" * 8001}, "question", "1 to 8,000 are accepted"),
        ({"question": "<image><image> a"}, "question", "at most one for each picture"),
        ({"question": 5}, "question", "valid string"),
        ({"image": None}, "image", "data URL or upload a file"),
        ({"image": "cat.png"}, "image", "neither a data URL"),
        ({"image": "https://example.com/cat.png"}, "image", "fetching is off"),
        ({"keep_tokens": 0}, "keep_tokens", "greater than or equal to 1"),
        ({"keep_tokens": "auto"}, "keep_tokens", "valid integer"),
        ({"keep_ratio": 1.5}, "keep_ratio", "less than or equal to 1"),
        ({"keep_ratio": 0.5, "keep_tokens": 3}, "keep_ratio", "at most one of keep_tokens and keep_ratio"),
        ({"wire_dtype": "int8"}, "wire_dtype", "'float32', 'float16' or 'bfloat16'"),
        ({"max_tokens": 2049}, "max_tokens", "1 to 2048 are accepted"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"seed": 2**64}, "seed", "less than"),
        ({"stop": ["a"] * 9}, "stop", "at most 8"),
        ({"stop": [""]}, "stop.0", "at least 1 character"),
        ({"timeout_s": 0}, "timeout_s", "greater than 0"),
        ({"timeout_s": 601}, "timeout_s", "up to 600 is accepted"),
        ({"cache": "maybe"}, "cache", "'use', 'bypass' or 'refresh'"),
        ({"stream": "yes"}, "stream", "valid boolean"),
        ({"pruner_params": []}, "pruner_params", "valid dictionary"),
        ({"pruner_params": {"a": 10**400}}, "pruner_params", "number or a depth"),
        ({"colour": "red"}, "colour", "accepted are question, image, model"),
        ({"images": []}, "images", "not served yet"),
        ({"video": ""}, "video", "not served yet"),
        ({"messages": []}, "messages", "not served yet"),
        ({"llm_pruner": {}}, "llm_pruner", "not served yet"),
        ({"max_wire_bytes": 1}, "max_wire_bytes", "not served yet"),
    ],
)
async def test_invalid_fields(gateway: Gateway, fields: dict[str, Any], param: str, says: str) -> None:
    error = await gateway.refused(422, ask() | fields)
    assert error["code"] == "invalid_request"
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert says in error["message"]
    assert not gateway.encoder.calls


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"model": "gpt"}, "model", "'tiny-llava' is"),
        ({"pruner": "magic"}, "pruner", "accepted are none, desap"),
    ],
)
async def test_unknown_names(gateway: Gateway, fields: dict[str, Any], param: str, says: str) -> None:
    error = await gateway.refused(404, ask() | fields)
    assert (error["code"], error["param"]) == ("not_found", param)
    assert says in error["message"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'{"temperature": NaN}', "not valid JSON"),
        (b'{"question": "\\ud800"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
async def test_malformed_json(gateway: Gateway, body: bytes, says: str) -> None:
    response = await gateway.http.post("/v1/answer", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert says in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("image", "status", "says"),
    [
        ("data:image/png;base64,%%%", 400, "not valid base64"),
        ("data:image/png,abc", 400, "not of the form data:image/"),
        ("data:", 400, "not of the form data:image/"),
        (data_url(b"hello, world"), 415, "JPEG, PNG, WebP, GIF and BMP are accepted"),
        (data_url(b""), 415, "not a picture"),
        (data_url(png(), "text/plain"), 415, "another media type"),
    ],
)
async def test_what_is_no_picture(gateway: Gateway, image: str, status: int, says: str) -> None:
    error = await gateway.refused(status, ask() | {"image": image})
    assert error["param"] == "image"
    assert says in error["message"]
    assert not gateway.encoder.calls


async def test_a_text_file_upload_is_no_picture(gateway: Gateway) -> None:
    response = await gateway.http.post(
        "/v1/answer", data={"question": "What?"}, files={"image": ("a.png", b"hello", "image/png")}
    )
    assert response.status_code == 415


@pytest.mark.parametrize(
    ("form", "status", "says"),
    [
        ({"question": (None, "a"), "picture": ("a.png", png())}, 422, "image only"),
        ([("question", (None, "a")), ("question", (None, "b"))], 422, "2 times"),
        ([("image", (None, data_url(png()))), ("image", ("a.png", png()))], 422, "given twice"),
        ({"question": (None, "a"), "pruner_params": (None, "{")}, 400, "not valid JSON"),
        ({"question": (None, "a"), "keep_ratio": (None, "half")}, 422, "valid number"),
        ({"image": ("a.png", png())}, 422, "question"),
    ],
)
async def test_malformed_forms(gateway: Gateway, form: Any, status: int, says: str) -> None:
    response = await gateway.http.post("/v1/answer", files=form)
    assert response.status_code == status, response.text
    assert says in response.json()["error"]["message"]


async def test_other_content_types(gateway: Gateway) -> None:
    response = await gateway.http.post("/v1/answer", data={"question": "a"})
    assert response.status_code == 415
    assert "application/json nor multipart/form-data" in response.json()["error"]["message"]


async def test_pictures_and_bodies_have_limits(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_image_bytes=1000, max_body_bytes=4000)
    big = png() + bytes(1000)
    error = await gateway.refused(413, ask() | {"image": data_url(big)})
    assert (error["param"], error["code"]) == ("image", "too_large")
    assert "1,000 bytes" in error["message"]
    response = await gateway.http.post("/v1/answer", data={"question": "a"}, files={"image": ("a.png", big)})
    assert response.status_code == 413
    error = await gateway.refused(413, ask() | {"image": data_url(bytes(4000))})
    assert "4,000 bytes" in error["message"]


async def test_chunked_bodies_are_limited_too(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_body_bytes=4000)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 1000

    response = await gateway.http.post("/v1/answer", content=chunks(), headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "too_large"


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (UnsupportedMedia("image cannot be decoded", param="image"), 415),
        (TooLarge("too many pixels", param="image"), 413),
        (Overloaded("the queue is full", retry_after_s=2.5), 429),
        (Unavailable("draining", retry_after_s=3), 503),
        (InternalError("the service failed"), 502),
        (DeadlineExceeded("too late"), 504),
    ],
)
@pytest.mark.parametrize("leg", ["encoder", "llm"])
async def test_errors_of_services_pass_word_for_word(
    gateway: Gateway, leg: str, raised: ServiceError, status: int
) -> None:
    getattr(gateway, leg).error = raised
    response = await gateway.http.post("/v1/answer", json=ask())
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["message"], error["code"], error["param"]) == (raised.message, raised.code, raised.param)
    retry = {429: "3", 503: "3"}.get(status)
    assert response.headers.get("retry-after") == retry


@pytest.mark.parametrize("leg", ["encoder", "llm"])
async def test_a_service_that_is_down_is_a_503_and_comes_back(gateway: Gateway, leg: str) -> None:
    await gateway.answer(shade=1)
    old = gateway.servers[leg]
    await old.grpc.stop(0)
    response = await gateway.http.post("/v1/answer", json=ask())
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    message = response.json()["error"]["message"]
    assert ("encoder service" if leg == "encoder" else "LLM service") in message
    assert "127.0.0.1" not in message
    assert (await gateway.answer(shade=1))["cache"]["answer"] == "hit"  # what is cached needs no service

    gateway.servers[leg] = await serve(getattr(gateway, leg), old.port)
    async with asyncio.timeout(30):
        while (await gateway.http.post("/v1/answer", json=ask())).status_code == 503:
            pass
    await gateway.answer()


async def test_a_service_that_was_never_there_is_a_503(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(encoder="127.0.0.1:1")
    error = await gateway.refused(503)
    assert error["type"] == "server_error"


async def test_a_deadline_is_a_504(gateway: Gateway) -> None:
    gateway.llm.gate.shut()
    error = await gateway.refused(504, timeout_s=0.2)
    assert error["code"] == "deadline_exceeded"
    async with asyncio.timeout(10):
        await gateway.llm.cancelled.wait()


@pytest.mark.parametrize("fault", ["no tokens", "no end"])
async def test_a_service_that_answers_nonsense_is_a_502(gateway: Gateway, fault: str) -> None:
    if fault == "no tokens":
        gateway.encoder.reply = encoder_pb2.EncodeResponse(num_tokens_total=[6])
    else:
        gateway.llm.stops_early = True
    error = await gateway.refused(502)
    assert error["code"] == "internal_error"


async def test_tokens_of_another_checkpoint_are_a_502(gateway: Gateway) -> None:
    gateway.llm.error = CheckpointMismatch("tokens of checkpoint aaaa were sent to bbbb")
    assert (await gateway.refused(502))["code"] == "checkpoint_mismatch"


async def test_a_prompt_longer_than_the_context_says_by_how_much(gateway: Gateway) -> None:
    gateway.llm.info.max_model_len = 10
    error = await gateway.refused(422)
    assert error["param"] == "question"
    length = len(gateway.app.state.pipeline.planner.prompt_tokenizer.encode("What colour is it?", num_images=1)) + 2
    assert f"{length} tokens" in error["message"]
    assert f"{length + 1 - 10} more than" in error["message"]


async def test_beyond_the_limit_requests_are_shed_before_work(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_concurrent_requests=1)
    gateway.encoder.gate.shut()
    first = asyncio.create_task(gateway.answer())
    await gateway.encoder.gate.reached.wait()
    response = await gateway.http.post("/v1/answer", content=b"not even read")
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["type"] == "rate_limit_error"
    gateway.encoder.gate.open()
    await first
    await gateway.answer(stream=False)  # the permit came back
    for _ in range(2):
        assert (await gateway.http.post("/v1/answer", json=ask(stream=True))).status_code == 200


async def test_a_body_that_does_not_arrive_is_a_408(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(default_timeout_s=0.1)
    never = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await never.wait()

    receive = stalled()

    async def asgi_receive() -> dict[str, Any]:
        return {"type": "http.request", "body": await anext(receive), "more_body": True}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/v1/answer",
             "raw_path": b"/v1/answer", "query_string": b"", "headers": headers, "scheme": "http",
             "server": ("gateway", 80), "client": ("client", 1), "root_path": ""}  # fmt: skip
    await gateway.app(scope, asgi_receive, send)
    assert sent[0]["status"] == 408
    assert b"request_timeout" in sent[1]["body"]


async def test_unknown_paths_and_methods(gateway: Gateway) -> None:
    missing = await gateway.http.get("/v2/answer")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    wrong = await gateway.http.get("/v1/answer")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    assert all(response.headers["x-request-id"] for response in (missing, wrong))


async def test_a_defect_is_a_500_without_details(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(gateway.app.state.pipeline.planner.prompt_tokenizer, "encode", defect)
    response: httpx.Response = await gateway.http.post("/v1/answer", json=ask())
    assert response.status_code == 500
    assert response.headers["x-request-id"]
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text
