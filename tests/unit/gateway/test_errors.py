"""Errors of the API, with their messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from google.protobuf import json_format

from fovea.errors import (
    CheckpointMismatch,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    Overloaded,
    ServiceError,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from fovea.v1 import encoder_pb2
from tests.unit.gateway.conftest import Gateway, StartGateway, ask, data_url, png
from tests.unit.gateway.services import serve


def nested(depth: int) -> dict[str, Any]:
    """An object with `depth` levels of nesting."""
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"question": ""}, "question", "empty"),
        ({"question": "<image>"}, "question", "empty"),
        ({"question": "x" * 8001}, "question", "1 to 8,000 are accepted"),
        ({"question": "<image><image> a"}, "question", "at most one for each image"),
        ({"question": 5}, "question", "a text is accepted"),
        ({"image": None}, "image", "data URL or upload a file"),
        ({"image": "cat.png"}, "image", "neither a data URL"),
        ({"image": "https://example.com/cat.png"}, "image", "fetching is off"),
        ({"image": "http://example.com/cat.png"}, "image", "--fetch-hosts (GATEWAY_FETCH_HOSTS)"),
        ({"keep_tokens": 0}, "keep_tokens", "at least 1 is accepted"),
        ({"keep_tokens": "many"}, "keep_tokens", 'whole number or "auto"'),
        ({"keep_tokens": 2.5}, "keep_tokens", 'whole number or "auto"'),
        ({"keep_tokens": "auto"}, "keep_tokens", "'desap' cannot choose its budget"),
        ({"keep_tokens": "auto", "pruner": "none"}, "keep_tokens", "fovea can"),
        (
            {"keep_tokens": 4, "pruner": "none"},
            "keep_tokens",
            "takes no budget; leave keep_tokens out, or name a pruner",
        ),
        (
            {"keep_ratio": 0.2, "pruner": "none"},
            "keep_ratio",
            "takes no budget; leave keep_ratio out, or name a pruner",
        ),
        ({"keep_tokens": "auto", "keep_ratio": 0.5}, "keep_ratio", "at most one of keep_tokens and keep_ratio"),
        ({"llm_pruner": {"name": "fastv", "keep_tokens": "auto"}}, "llm_pruner", "a whole number is accepted"),
        ({"keep_ratio": 1.5}, "keep_ratio", "at most 1 is accepted"),
        ({"keep_ratio": 0.5, "keep_tokens": 3}, "keep_ratio", "at most one of keep_tokens and keep_ratio"),
        ({"wire_dtype": "int3"}, "wire_dtype", "'int4', 'entropy' or 'basis'"),
        ({"max_tokens": 2049}, "max_tokens", "1 to 2048 are accepted"),
        ({"max_tokens": 0}, "max_tokens", "a number of at least 1 is accepted"),
        ({"temperature": -1}, "temperature", "a number of at least 0 is accepted"),
        ({"top_p": 0}, "top_p", "a number above 0 is accepted"),
        ({"seed": 2**64}, "seed", "a number below"),
        ({"stop": ["a"] * 9}, "stop", "at most 8"),
        ({"stop": [""]}, "stop", "a text of 1 or more characters"),
        ({"stop": 3}, "stop", "a text or a list of texts is accepted"),
        ({"timeout_s": 0}, "timeout_s", "a number above 0 is accepted"),
        ({"timeout_s": 601}, "timeout_s", "up to 600 is accepted"),
        ({"cache": "maybe"}, "cache", "'use', 'bypass' or 'refresh'"),
        ({"stream": "yes"}, "stream", "true or false is accepted"),
        ({"pruner_params": []}, "pruner_params", "an object is accepted"),
        ({"pruner_params": {"a": 10**400}}, "pruner_params", "finite numbers"),
        ({"pruner_params": {"a": "b" * 4096}}, "pruner_params", "up to 4096 bytes"),
        ({"pruner_params": nested(9)}, "pruner_params", "up to 8 deep"),
        ({"pruner_params": nested(100)}, "pruner_params", "up to 8 deep"),
        ({"x" * 5000: 1}, "x" * 80, "accepted are question"),
        ({"colour": "red"}, "colour", "accepted are question, image, images, video, messages"),
        ({"llm_pruner": {}}, "llm_pruner", "the field is missing"),
        ({"llm_pruner": {"name": "fastv"}}, "llm_pruner", "exactly one of keep_tokens and keep_ratio"),
        ({"llm_pruner": {"name": "fastv", "keep_tokens": 1, "keep_ratio": 0.5}}, "llm_pruner", "exactly one of"),
        ({"llm_pruner": {"name": "fastv", "keep_tokens": 0}}, "llm_pruner", "a number of at least 1 is accepted"),
        (
            {"llm_pruner": {"name": "fastv", "keep_ratio": 0.5, "k": 3}},
            "llm_pruner.k",
            "accepted are name, keep_tokens",
        ),
        ({"llm_pruner": {"name": "fastv", "keep_ratio": 0.5, "params": nested(9)}}, "llm_pruner", "up to 8 deep"),
        ({"max_wire_bytes": 0}, "max_wire_bytes", "at least 1 is accepted"),
    ],
)
async def test_invalid_fields(gateway: Gateway, fields: dict[str, Any], param: str, message: str) -> None:
    error = await gateway.refused(422, ask() | fields)
    assert error["code"] == "invalid_request"
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert message in error["message"]
    assert not gateway.encoder.calls


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
async def test_infinite_numbers_are_refused(gateway: Gateway, number: str) -> None:
    body = json.dumps(ask(pruner_params={"x": "number"})).replace('"number"', number)
    response = await gateway.http.post("/v1/answer", content=body)
    assert response.status_code == 422, response.text
    assert "finite numbers" in response.json()["error"]["message"]


async def test_parameters_within_the_bounds_reach_the_encoder(gateway: Gateway) -> None:
    params = {"list": [1, [True, None, "b"]], "nested": nested(7)}
    await gateway.answer(pruner_params=params)
    assert json_format.MessageToDict(gateway.encoder.calls[0].pruner_params) == params


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"model": "gpt"}, "model", "'tiny-llava' is"),
        ({"pruner": "magic"}, "pruner", "accepted: none, desap"),
    ],
)
async def test_unknown_names(gateway: Gateway, fields: dict[str, Any], param: str, message: str) -> None:
    error = await gateway.refused(404, ask() | fields)
    assert (error["code"], error["param"]) == ("not_found", param)
    assert message in error["message"]


async def test_a_pruner_that_the_family_cannot_run_is_a_422_not_a_404(gateway: Gateway) -> None:
    gateway.encoder.unsuitable.add("visionzip")
    error = await gateway.refused(422, ask(pruner="visionzip"))
    assert (error["param"], error["message"]) == (
        "pruner",
        "visionzip does not work here; accepted: none, desap, fovea",
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not valid JSON"),
        (b"", "the request body is empty"),
        (b"[]", "not a JSON object"),
        (b'{"temperature": NaN}', "not valid JSON"),
        (b'{"question": "\\ud800"}', "not valid JSON"),
        (b"[" * 1000, "nested more than 200 deep"),
        (b"[" * 100_000, "more than the 16,384 JSON values"),
        (b'{"seed": %s}' % (b"9" * 4301), "more than 4,300 digits"),
        (b'{"question": "' + b"a" * 100_000, "not valid JSON"),
        (b"[" + b"1," * 20_000 + b"1]", "more than the 16,384 JSON values"),
    ],
)
async def test_malformed_json(gateway: Gateway, body: bytes, message: str) -> None:
    response = await gateway.http.post("/v1/answer", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("image", "status", "message"),
    [
        ("data:image/png;base64,%%%", 400, "not valid base64"),
        ("data:image/png,abc", 400, "not of the form data:image/"),
        ("data:", 400, "not of the form data:image/"),
        (data_url(b"hello, world"), 415, "JPEG, PNG, WebP, GIF and BMP are accepted"),
        (data_url(b""), 415, "not a file of an accepted format"),
        (data_url(png(), "text/plain"), 415, "the media type text/plain, not of an image"),
    ],
)
async def test_files_that_are_not_images_are_refused(gateway: Gateway, image: str, status: int, message: str) -> None:
    error = await gateway.refused(status, ask() | {"image": image})
    assert error["param"] == "image"
    assert message in error["message"]
    assert not gateway.encoder.calls


async def test_an_uploaded_text_file_is_refused(gateway: Gateway) -> None:
    response = await gateway.http.post(
        "/v1/answer", data={"question": "What?"}, files={"image": ("a.png", b"hello", "image/png")}
    )
    assert response.status_code == 415


@pytest.mark.parametrize(
    ("form", "status", "message"),
    [
        (
            {"question": (None, "a"), "picture": ("a.png", png())},
            422,
            "files are accepted in the fields image, images, video",
        ),
        ([("question", (None, "a")), ("question", (None, "b"))], 422, "2 times"),
        ([("image", (None, data_url(png()))), ("image", ("a.png", png()))], 422, "given twice"),
        ({"question": (None, "a"), "pruner_params": (None, "{")}, 400, "not valid JSON"),
        ({"question": (None, "a"), "pruner_params": (None, f"[{'1,' * 20_000}1]")}, 400, "more than the 16,384"),
        ({"question": (None, "a"), "keep_ratio": (None, "half")}, 422, "a number is accepted"),
        ({"image": ("a.png", png())}, 422, "question"),
    ],
)
async def test_malformed_forms(gateway: Gateway, form: Any, status: int, message: str) -> None:
    response = await gateway.http.post("/v1/answer", files=form)
    assert response.status_code == status, response.text
    assert message in response.json()["error"]["message"]


@pytest.mark.parametrize("charset", ["unicode_escape", "utf-7", "undefined", "utf-16", '"utf-16"', "latin-1", "none"])
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=b"])
async def test_charsets_other_than_utf8_are_refused(gateway: Gateway, kind: str, charset: str) -> None:
    response = await gateway.http.post(
        "/v1/answer", content=form_body(), headers={"content-type": f"{kind}; charset={charset}"}
    )
    assert response.status_code == 415, response.text
    assert "not utf-8, the only one accepted" in response.json()["error"]["message"]


def form_body(*, question: bytes = b"What?", name: bytes = b"question", end: bytes = b"--b--\r\n") -> bytes:
    """A form with the boundary `b`."""
    part = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    return part % (name, b"", question) + part % (b"image", b'; filename="a.png"', png()) + end


QUESTION = b'--b\r\nContent-Disposition: form-data; name="question"\r\n\r\nWhat?\r\n'


async def post_form(gateway: Gateway, body: bytes, charset: str = "") -> httpx.Response:
    kind = f"multipart/form-data; boundary=b{charset}"
    return await gateway.http.post("/v1/answer", content=body, headers={"content-type": kind})


@pytest.mark.parametrize("charset", ["", "; charset=utf-8", '; charset="UTF8"'])
async def test_forms_in_utf8_are_read(gateway: Gateway, charset: str) -> None:
    response = await post_form(gateway, form_body(question="Où?".encode()), charset)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("end", [b"", b"--b", b"--b\r\n"])
async def test_a_truncated_form_is_refused(gateway: Gateway, end: bytes) -> None:
    response = await post_form(gateway, form_body(end=end))
    assert response.status_code == 400, response.text
    assert "closing boundary" in response.json()["error"]["message"]
    assert not gateway.encoder.calls


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [
        ("multipart/form-data", form_body(), "its Content-Type has no boundary"),
        ("multipart/form-data; boundary=b", b"no form", "it is not multipart/form-data with the boundary"),
        ("multipart/form-data; boundary=b", form_body().replace(b'; name="question"', b""), "a field has no name"),
    ],
)
async def test_a_form_that_cannot_be_read_is_refused_with_the_reason(
    gateway: Gateway, kind: str, body: bytes, says: str
) -> None:
    response = await gateway.http.post("/v1/answer", content=body, headers={"content-type": kind})
    assert response.status_code == 400, response.text
    assert f"the form cannot be read: {says}" in response.json()["error"]["message"]


async def test_form_fields_are_utf8(gateway: Gateway) -> None:
    response = await post_form(gateway, form_body(question="\ud800".encode(errors="surrogatepass")))
    assert response.status_code == 400
    assert "not UTF-8" in response.json()["error"]["message"]


async def test_a_field_whose_name_is_not_utf8_is_named_in_the_error(gateway: Gateway) -> None:
    response = await post_form(gateway, QUESTION + form_body(name="\ud800".encode(errors="surrogatepass")))
    assert response.status_code == 422
    assert response.json()["error"]["message"].startswith("there is no field '")


async def test_long_field_names_are_not_echoed(gateway: Gateway) -> None:
    response = await post_form(gateway, QUESTION + form_body(name=b"x" * 500))
    assert response.status_code == 422
    assert len(response.text) < 300


async def test_other_content_types(gateway: Gateway) -> None:
    response = await gateway.http.post("/v1/answer", data={"question": "a"})
    assert response.status_code == 415
    assert "application/json nor multipart/form-data" in response.json()["error"]["message"]


async def test_images_and_bodies_have_limits(start_gateway: StartGateway) -> None:
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
    ("length", "status"),
    [(b"9" * 5000, 413), (b"20971521", 413), (b"20971520", 200), (b"0" * 5000, 200), (b"\xb2", 200), (b"-1", 200)],
)
async def test_any_content_length_is_handled(gateway: Gateway, length: bytes, status: int) -> None:
    response = await gateway.http.post("/v1/answer", json=ask(), headers={b"content-length": length})
    assert response.status_code == status, response.text


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
    assert error.get("retry_after_s") == (None if retry is None else int(retry))
    assert ("retry_after_s" in error) == (retry is not None)


@pytest.mark.slow
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
    assert (await gateway.answer(shade=1))["cache"]["answer"] == "hit"  # cached answers need no service

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
async def test_an_invalid_reply_is_a_502(gateway: Gateway, fault: str) -> None:
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
    tokenizer = gateway.app.state.gateway.planner.prompt_tokenizer
    length = len(tokenizer.encode("What colour is it?", num_images=1)) + 2
    gateway.llm.info.max_model_len = length
    error = await gateway.refused(422)
    assert error["param"] == "question"
    assert f"{length} tokens" in error["message"]
    assert "1 more than" in error["message"]
    assert not gateway.llm.calls


async def test_a_question_longer_than_the_context_is_refused_before_it_is_encoded(gateway: Gateway) -> None:
    gateway.llm.info.max_model_len = 10
    error = await gateway.refused(422)
    assert error["param"] == "question"
    length = len(gateway.app.state.gateway.planner.prompt_tokenizer.encode("What colour is it?", num_images=1))
    assert f"{length} tokens" in error["message"]
    assert f"{length + 1 - 10} more than" in error["message"]
    assert not gateway.encoder.calls


async def test_a_question_too_long_for_the_text_tower_is_an_invalid_request(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(max_question_chars=20_000)
    gateway.llm.info.max_model_len = 2**20
    error = await gateway.refused(422, question="\U0001f600 " * 8192)
    assert error["param"] == "question"
    assert "up to 8,192 are accepted" in error["message"]
    assert not gateway.encoder.calls


@pytest.mark.parametrize(
    ("leg", "theirs", "ours"),
    [
        ("encoder", "text_ids", "question"),
        ("encoder", "images", "image"),
        ("llm", "input_ids", "question"),
        ("llm", "visual_tokens", "image"),
        ("llm", "temperature", "temperature"),
    ],
)
async def test_fields_of_messages_are_reported_as_fields_of_the_request(
    gateway: Gateway, leg: str, theirs: str, ours: str
) -> None:
    getattr(gateway, leg).error = InvalidRequest("not accepted", param=theirs)
    assert (await gateway.refused(422))["param"] == ours


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
    await gateway.answer(stream=False)  # the permit is free again
    for _ in range(2):
        assert (await gateway.http.post("/v1/answer", json=ask(stream=True))).status_code == 200


async def test_a_body_that_does_not_arrive_is_a_408(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(body_timeout_s=0.1)
    response = await gateway.http.post("/v1/answer", content=Stalled())
    assert response.status_code == 408
    assert response.json()["error"]["code"] == "request_timeout"


class Stalled:
    """A body that begins and never ends."""

    def __init__(self, beginning: bytes = b"{") -> None:
        self.beginning = beginning
        self.reached = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.beginning
        self.reached.set()
        await asyncio.Event().wait()


async def test_stalled_bodies_do_not_occupy_slots_of_answers(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_concurrent_requests=1, max_concurrent_bodies=3)
    bodies = [Stalled() for _ in range(2)]
    stalled = [asyncio.create_task(gateway.http.post("/v1/answer", content=body)) for body in bodies]
    await asyncio.gather(*(body.reached.wait() for body in bodies))
    await gateway.answer()
    bodies.append(Stalled())
    stalled.append(asyncio.create_task(gateway.http.post("/v1/answer", content=bodies[-1])))
    await bodies[-1].reached.wait()
    error = await gateway.refused(429)
    assert "limit of 3 bodies being read" in error["message"]
    for task in stalled:
        task.cancel()
    await asyncio.wait(stalled)
    await gateway.answer(shade=2)  # their slots are free again


async def test_all_bodies_in_memory_share_one_limit(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_total_body_bytes=1000)
    body = Stalled(bytes(850))
    stalled = asyncio.create_task(gateway.http.post("/v1/answer", content=body))
    await body.reached.wait()
    error = await gateway.refused(429)
    assert error["type"] == "rate_limit_error"
    assert "1,000 bytes of request bodies" in error["message"]
    async with gateway.http_from("192.0.2.1") as other:  # an eighth is for other clients
        content = json.dumps({"question": "?"}).ljust(100)
        assert (await other.post("/v1/answer", content=content)).status_code == 422
    stalled.cancel()
    await asyncio.wait([stalled])
    await gateway.answer()


async def test_requests_in_progress_at_the_end_of_the_drain_are_a_503(gateway: Gateway) -> None:
    gateway.encoder.gate.shut()
    request = asyncio.create_task(gateway.http.post("/v1/answer", json=ask()))
    await gateway.encoder.gate.reached.wait()
    gateway.app.state.drain.end()
    response = await request
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["error"]["code"] == "unavailable"
    assert response.headers["x-request-id"]
    await gateway.encoder.cancelled.wait()
    assert (await gateway.refused(503))["code"] == "unavailable"


async def test_a_stream_in_progress_when_the_drain_ends_gets_an_error_event(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True)
    gateway.llm.gate.shut()
    async with gateway.http.stream("POST", "/v1/answer", json=ask(stream=True)) as response:
        lines = response.aiter_lines()
        assert await anext(lines) == "event: token"
        gateway.app.state.drain.end()
        *_, name, data, _ = [line async for line in lines]
    assert name == "event: error"
    assert '"code":"unavailable"' in data


async def test_a_trailing_slash_is_no_redirect(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(allowed_hosts="*")
    response = await gateway.http.post("/v1/answer/", json=ask(), headers={"host": "elsewhere.example"})
    assert response.status_code == 404
    assert "location" not in response.headers


async def test_unknown_paths_and_methods(gateway: Gateway) -> None:
    missing = await gateway.http.get("/v2/answer")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert missing.json()["error"]["message"].startswith("there is no such path; ")
    metrics = await gateway.http.get("/metrics")
    assert (metrics.status_code, metrics.json()["error"]["code"]) == (404, "not_found")
    assert "--metrics-listen (GATEWAY_METRICS_LISTEN)" in metrics.json()["error"]["message"]
    for path in ("/metrics/", "/v1/metrics", "/ping"):
        other = (await gateway.http.get(path)).json()["error"]["message"]
        assert other == "there is no such path; GET /docs lists those that exist"
    wrong = await gateway.http.get("/v1/answer")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    assert all(response.headers["x-request-id"] for response in (missing, wrong))


async def test_a_defect_is_a_500_without_details(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(gateway.app.state.gateway.planner.prompt_tokenizer, "encode", defect)
    response: httpx.Response = await gateway.http.post("/v1/answer", json=ask())
    assert response.status_code == 500
    assert response.headers["x-request-id"]
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text
