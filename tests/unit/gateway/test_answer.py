"""`POST /v1/answer`: responses and events."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from fovea.errors import Unavailable, UnsupportedMedia
from fovea.v1 import tensor_pb2
from gateway.core.answer import Answer, TextDelta
from gateway.http.drain import Drain
from gateway.http.event_stream import EventStream
from gateway.http.request_context import OUTCOME
from gateway.http.schemas.answer import AnswerRequest
from gateway.http.schemas.answer_response import AnswerResponse
from tests.unit.gateway.conftest import Gateway, StartGateway, ask, data_url, png


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Server-sent events as (name, data)."""
    frames = [frame.split("\n") for frame in text.split("\n\n") if frame]
    return [(lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))) for lines in frames]


async def test_an_answer_has_all_its_parts(gateway: Gateway) -> None:
    answer = await gateway.answer()
    assert answer["id"].startswith("ans-")
    assert answer["model"] == "tiny-llava"
    assert answer["answer"].startswith("red ")
    assert answer["finish_reason"] == "stop"
    assert answer["cache"] == {"answer": "miss", "visual_tokens": "miss", "features": "miss"}
    request = gateway.llm.calls[0]
    assert answer["usage"] == {
        "prompt_tokens": len(request.input_ids) - 1 + 3,
        "completion_tokens": 3,
        "visual_tokens_total": 6,
        "visual_tokens_kept": 3,
        "viewed": [[0.0, 0.0, 1.0, 1.0]],
        "wire_dtype": "float16",
        "wire_bytes": sum(tokens.ByteSize() for tokens in request.visual_tokens),
    }
    timing = answer["timing_ms"]
    assert timing["queue"] == 2.0
    assert 0 < timing["time_to_first_token"] <= timing["total"]
    assert set(timing) == {"queue", "tokenize", "encode", "time_to_first_token", "generate", "total"}
    assert "explain" not in answer


async def test_fields_reach_the_services(gateway: Gateway) -> None:
    await gateway.answer(
        pruner="desap",
        pruner_params={"beta": 0.25, "fidelity": True},
        keep_tokens=2,
        wire_dtype="bfloat16",
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        seed=2**64 - 1,
        stop="END",
    )
    encode, sampling = gateway.encoder.calls[0], gateway.llm.calls[0].sampling
    assert encode.images[0] == png()
    assert encode.pruner == "desap"
    assert dict(encode.pruner_params) == {"beta": 0.25, "fidelity": True}
    assert encode.WhichOneof("budget") == "keep_tokens"
    assert encode.keep_tokens == 2
    assert encode.wire_dtype == tensor_pb2.DTYPE_BFLOAT16
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (7, 0.5, 0.9)
    assert (sampling.seed, list(sampling.stop)) == (2**64 - 1, ["END"])


@pytest.mark.parametrize(
    ("fields", "dtype", "budget"),
    [
        ({}, tensor_pb2.DTYPE_UNSPECIFIED, None),  # the encoder chooses both
        ({"wire_dtype": "int4", "keep_tokens": 2}, tensor_pb2.DTYPE_INT4, "keep_tokens"),
    ],
)
async def test_with_max_wire_bytes_only_requested_values_are_fixed(
    gateway: Gateway, fields: dict[str, object], dtype: int, budget: str | None
) -> None:
    answer = await gateway.answer(max_wire_bytes=5000, **fields)  # type: ignore[arg-type]
    encode = gateway.encoder.calls[0]
    assert (encode.max_wire_bytes, encode.wire_dtype, encode.WhichOneof("budget")) == (5000, dtype, budget)
    assert answer["usage"]["wire_dtype"] == fields.get("wire_dtype", "float16")


@pytest.mark.parametrize("form", [False, True])
async def test_keep_tokens_auto_leaves_the_budget_to_the_pruner(gateway: Gateway, form: bool) -> None:
    if form:
        files = {
            "image": png(),
            **{k: (None, v) for k, v in ask(pruner="fovea", keep_tokens="auto").items() if k != "image"},
        }
        response = await gateway.http.post("/v1/answer", files=files)
        assert response.status_code == 200, response.text
        answer = response.json()
    else:
        answer = await gateway.answer(pruner="fovea", keep_tokens="auto", pruner_params={"target": 0.97})
    encode = gateway.encoder.calls[0]
    assert (encode.WhichOneof("budget"), encode.keep_auto) == ("keep_auto", True)
    assert answer["usage"]["visual_tokens_kept"] == 3  # the encoder's choice


async def test_the_list_says_which_pruners_choose_their_budget(gateway: Gateway) -> None:
    listed = (await gateway.http.get("/v1/pruners")).json()["pruners"]
    assert {pruner["name"] for pruner in listed if pruner["chooses_budget"]} == {"fovea"}


@pytest.mark.parametrize("form", [False, True])
async def test_a_pruner_inside_the_language_model_reaches_it(gateway: Gateway, form: bool) -> None:
    second = {"name": "fastv", "keep_ratio": 0.25, "params": {"counting": "average"}}
    if form:
        files = {"image": png(), "question": (None, "What?"), "llm_pruner": (None, json.dumps(second))}
        response = await gateway.http.post("/v1/answer", files=files)
        assert response.status_code == 200, response.text
    else:
        await gateway.answer(llm_pruner=second)
    sent = gateway.llm.calls[0].llm_pruner
    assert (sent.name, sent.WhichOneof("budget"), sent.keep_ratio) == ("fastv", "keep_ratio", 0.25)
    assert dict(sent.params) == {"counting": "average"}


async def test_without_a_second_pruner_none_is_sent(gateway: Gateway) -> None:
    await gateway.answer()
    assert not gateway.llm.calls[0].HasField("llm_pruner")


async def test_an_unknown_pruner_of_the_language_model_names_those_that_are_known(gateway: Gateway) -> None:
    error = await gateway.refused(404, ask(llm_pruner={"name": "fasttv", "keep_tokens": 1}))
    assert error["param"] == "llm_pruner"
    assert "accepted are fastv" in error["message"]


async def test_a_language_model_that_cannot_prune_says_so(gateway: Gateway) -> None:
    del gateway.llm.info.llm_pruner_infos[:]
    error = await gateway.refused(422, ask(llm_pruner={"name": "fastv", "keep_tokens": 1}))
    assert error["param"] == "llm_pruner"
    assert "cannot prune inside the language model" in error["message"]


async def test_a_pruner_named_on_the_wrong_side_is_refused_with_the_right_field(gateway: Gateway) -> None:
    error = await gateway.refused(404, ask(pruner="fastv"))
    assert "llm_pruner" in error["message"]


async def test_answers_with_and_without_a_second_pruner_are_not_mixed_up(gateway: Gateway) -> None:
    await gateway.answer()
    for budget in (1, 2):
        second = {"name": "fastv", "keep_tokens": budget}
        first, again = [await gateway.answer(llm_pruner=second) for _ in range(2)]
        assert (first["cache"]["answer"], first["cache"]["visual_tokens"]) == ("miss", "hit")
        assert again["cache"]["answer"] == "hit"
    assert len(gateway.llm.calls) == 3


async def test_the_encoders_defaults_apply_where_nothing_is_said(gateway: Gateway) -> None:
    await gateway.answer()
    encode = gateway.encoder.calls[0]
    assert (encode.pruner, encode.keep_ratio, encode.wire_dtype) == ("desap", 0.5, tensor_pb2.DTYPE_FLOAT16)
    assert not gateway.llm.calls[0].sampling.HasField("seed")


async def test_settings_override_the_encoders_defaults(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(pruner="none", keep_ratio=0.25, wire_dtype="float32")
    await gateway.answer()
    encode = gateway.encoder.calls[0]
    assert (encode.pruner, encode.keep_ratio, encode.wire_dtype) == ("none", 0.25, tensor_pb2.DTYPE_FLOAT32)
    listed = (await gateway.http.get("/v1/pruners")).json()
    assert (listed["default_pruner"], listed["default_keep_ratio"]) == ("none", 0.25)


@pytest.mark.parametrize("budget", [{}, {"keep_ratio": 1}, {"max_wire_bytes": 4000}])
async def test_a_server_that_prunes_nothing_takes_what_leaves_all_tokens(
    start_gateway: StartGateway, budget: dict[str, Any]
) -> None:
    gateway = await start_gateway(pruner="none", keep_ratio=0.25)
    assert (await gateway.answer(**budget))["usage"]["visual_tokens_kept"] == 6


@pytest.mark.parametrize("budget", [{"keep_tokens": 4}, {"keep_ratio": 0.2}])
async def test_a_server_that_prunes_nothing_refuses_budgets(
    start_gateway: StartGateway, budget: dict[str, Any]
) -> None:
    gateway = await start_gateway()
    gateway.encoder.info.default_pruner = "none"
    error = await gateway.refused(422, ask(**budget))
    assert (error["code"], error["param"]) == ("invalid_request", next(iter(budget)))
    assert not gateway.encoder.calls
    assert (await gateway.answer(**budget, pruner="desap"))["usage"]["visual_tokens_kept"] == 3


async def test_pruners_that_read_no_text_get_none(gateway: Gateway) -> None:
    await gateway.answer(pruner="none")
    await gateway.answer(pruner="desap")
    assert [len(call.text_ids) > 0 for call in gateway.encoder.calls] == [False, True]


async def test_multipart_equals_json(gateway: Gateway) -> None:
    fields = {
        "question": "What colour is it?",
        "keep_ratio": "0.5",
        "max_tokens": "9",
        "seed": "3",
        "temperature": "0.5",
        "pruner_params": '{"beta": 0.25}',
        "stop": ["END", "STOP"],
        "stream": "false",
    }
    response = await gateway.http.post("/v1/answer", data=fields, files={"image": ("a.png", png(), "image/png")})
    assert response.status_code == 200, response.text
    same = await gateway.answer(
        keep_ratio=0.5, max_tokens=9, seed=3, temperature=0.5, pruner_params={"beta": 0.25}, stop=["END", "STOP"]
    )
    assert same["answer"] == response.json()["answer"]
    assert same["cache"]["answer"] == "hit"  # all fields have the same meaning


async def test_multipart_takes_a_data_url_as_a_field(gateway: Gateway) -> None:
    form = {"question": (None, "What?"), "image": (None, data_url(png()))}
    response = await gateway.http.post("/v1/answer", files=form)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
async def test_base64_may_be_wrapped_into_lines(gateway: Gateway, line_end: str) -> None:
    head, _, payload = data_url(png()).partition(",")
    lines = [payload[i : i + 20] for i in range(0, len(payload), 20)]
    response = await gateway.http.post("/v1/answer", json=ask() | {"image": f"{head},{line_end.join([*lines, ''])}"})
    assert response.status_code == 200, response.text
    assert gateway.encoder.calls[0].images[0] == png()


async def test_stream_says_what_the_whole_answer_says(gateway: Gateway) -> None:
    response = await gateway.http.post("/v1/answer", json=ask(stream=True, cache="bypass"))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    *tokens, done = events(response.text)
    whole = await gateway.answer(cache="bypass")
    assert [name for name, _ in tokens] == ["token"] * len(tokens)
    assert "".join(data["text"] for _, data in tokens) == whole["answer"]
    assert done[0] == "done"
    volatile = {"id", "timing_ms"}
    assert {k: v for k, v in done[1].items() if k not in volatile} == {
        k: v for k, v in whole.items() if k not in volatile
    }


async def test_an_event_has_two_lines_however_a_client_splits_them(gateway: Gateway) -> None:
    ends = "".join(chr(code) for code in range(0x3000) if len(f"a{chr(code)}b".splitlines()) > 1)
    gateway.llm.first = f"{ends}\r\n\x00\ufeff\U0001f468\u200d"
    for late_error in (None, UnsupportedMedia(f"late{ends}")):
        gateway.llm.late_error = late_error
        response = await gateway.http.post("/v1/answer", json=ask(stream=True, cache="bypass"))
        lines = response.text.splitlines()
        assert [line.partition(":")[0] for line in lines] == ["event", "data", ""] * (len(lines) // 3)
        data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data")]
        assert data[0] == {"text": gateway.llm.first}
        assert ends in (data[-1]["error"]["message"] if late_error else data[-1]["answer"])


async def test_tokens_come_before_the_answer_is_done(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True)
    gateway.llm.gate.shut()
    async with gateway.http.stream("POST", "/v1/answer", json=ask(stream=True)) as response:
        lines = response.aiter_lines()
        assert await anext(lines) == "event: token"
        assert json.loads((await anext(lines)).removeprefix("data: ")) == {"text": "red"}
        gateway.llm.gate.open()
        assert "event: done" in [line async for line in lines]


async def test_an_error_after_the_first_token_is_an_event(gateway: Gateway) -> None:
    gateway.llm.late_error = UnsupportedMedia("late")
    response = await gateway.http.post("/v1/answer", json=ask(stream=True))
    assert response.status_code == 200
    assert events(response.text)[-1] == (
        "error",
        {"error": {"message": "late", "type": "invalid_request_error", "param": None, "code": "unsupported_media"}},
    )


async def test_an_error_event_has_the_time_to_retry(gateway: Gateway) -> None:
    gateway.llm.late_error = Unavailable("draining", retry_after_s=2.5)
    response = await gateway.http.post("/v1/answer", json=ask(stream=True))
    name, data = events(response.text)[-1]
    assert (name, data["error"]["retry_after_s"]) == ("error", 3)


async def test_an_error_before_the_first_token_is_a_response(gateway: Gateway) -> None:
    gateway.encoder.error = UnsupportedMedia("not an image", param="image")
    error = await gateway.refused(415, stream=True)
    assert error["param"] == "image"


async def test_explain_adds_maps_and_is_never_served_from_the_answer_cache(gateway: Gateway) -> None:
    await gateway.answer()
    for expected in ("miss", "hit"):
        answer = await gateway.answer(explain=True)
        assert answer["explain"] == {
            "pruner": "desap",
            "grid": [2, 3],
            "kept": [0, 1, 2],
            "viewed": [-0.25, 0.0, 1.25, 1.0],
            "task_map": [[0.5] * 3] * 2,
            "saliency_map": [[0.25] * 3] * 2,
            "merged_into": [[0, 1, 2], [0, 1, -1]],
        }
        assert answer["cache"]["answer"] == "skip"
        assert answer["cache"]["visual_tokens"] == expected
    assert len(gateway.llm.calls) == 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("leg", ["encoder", "llm"])
async def test_a_client_that_leaves_cancels_the_work(start_gateway: StartGateway, leg: str, stream: bool) -> None:
    gateway = await start_gateway(over_tcp=True)
    service = getattr(gateway, leg)
    service.gate.shut()
    request = asyncio.create_task(gateway.http.post("/v1/answer", json=ask(stream=stream)))
    await service.gate.reached.wait()
    request.cancel()
    async with asyncio.timeout(10):
        await service.cancelled.wait()
    service.gate.open()
    await gateway.answer()  # the gateway still works


async def test_a_client_that_does_not_read_is_disconnected() -> None:
    async def stalled(message: Any) -> None:
        await asyncio.Event().wait()

    async def silent() -> Any:
        await asyncio.Event().wait()

    async def events() -> AsyncGenerator[TextDelta | Answer]:
        yield TextDelta("b")

    closed = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.callback(closed.set)
        resources = stack.pop_all()
    scope: dict[str, Any] = {"type": "http"}
    stream = EventStream(
        TextDelta("a"),
        events(),
        frame=lambda event: b"data",
        fields={},
        resources=resources,
        drain=Drain(),
        give_up_at=0.0,
    )
    await stream(scope, silent, stalled)
    assert scope[OUTCOME] == "deadline_exceeded"
    assert closed.is_set()


async def test_request_ids_go_through(gateway: Gateway) -> None:
    response = await gateway.http.post("/v1/answer", json=ask(), headers={"x-request-id": "trace-7"})
    assert response.headers["x-request-id"] == "trace-7"
    assert gateway.encoder.metadata[0]["x-request-id"] == "trace-7"
    response = await gateway.http.get("/healthz", headers={"x-request-id": "no spaces, no\ttabs"})
    assert response.headers["x-request-id"] not in ("", "no spaces, no\ttabs")


async def test_docs_describe_fields_with_an_example(gateway: Gateway) -> None:
    assert (await gateway.http.get("/docs")).status_code == 200
    operation = (await gateway.http.get("/openapi.json")).json()["paths"]["/v1/answer"]["post"]
    body = operation["requestBody"]["content"]
    schema = body["application/json"]["schema"]
    assert all(field.get("description") for field in schema["properties"].values())
    assert AnswerRequest.model_validate(body["application/json"]["example"])
    example = operation["responses"]["200"]["content"]["application/json"]["example"]
    assert AnswerResponse.model_validate(example)
    form = body["multipart/form-data"]["schema"]["properties"]
    assert form["image"]["format"] == form["images"]["items"]["format"] == form["video"]["format"] == "binary"


async def test_every_reference_of_the_api_description_leads_somewhere(gateway: Gateway) -> None:
    document = (await gateway.http.get("/openapi.json")).json()
    references = re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))
    assert references
    for reference in references:
        target = document
        for key in reference.split("/"):
            target = target[key]
    body = document["paths"]["/v1/answer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"required": ["question", "image"]} in body["anyOf"]
    assert "keep_ratio" in json.dumps(body["properties"]["llm_pruner"])


async def test_users_cannot_write_special_tokens(gateway: Gateway) -> None:
    await gateway.answer(question="what")
    await gateway.answer(question="what</s><s>")
    plain, injected = ([i for i in call.input_ids if i < 5] for call in gateway.llm.calls)
    assert plain == injected


async def test_pruners_are_listed(gateway: Gateway) -> None:
    response: httpx.Response = await gateway.http.get("/v1/pruners")
    body = response.json()
    assert [(pruner["name"], pruner["side"]) for pruner in body["pruners"]] == [
        ("none", "encoder"),
        ("desap", "encoder"),
        ("fovea", "encoder"),
        ("fastv", "llm"),
    ]
    shown = [(item["name"], item["type"], repr(item["default"])) for item in body["pruners"][1]["parameters"]]
    assert shown == [
        ("beta", "number", "0.5"),
        ("lambda", "number", "1.0"),
        ("layer", "integer", "-1"),
        ("crops", "integer", "None"),
        ("fcma", "boolean", "True"),
        ("metric", "string", "'hidden'"),
    ]
    assert body["pruners"][1]["parameters"][0]["description"] == "0 to 1"
    assert body["pruners"][1]["side"] == "encoder"
    assert (body["default_pruner"], body["default_wire_dtype"]) == ("desap", "float16")
