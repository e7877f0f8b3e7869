"""Limits: a request at a limit is accepted, one beyond it is refused with an error that names the limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.core.limits import warn_of_family_limits
from gateway.http.schemas.answer import AnswerRequest
from gateway.settings import GatewaySettings
from tests.unit.gateway.conftest import Gateway, StartGateway, ask, data_url, png

URL = data_url(png())
UNREAD = {"pruner": "none"}
"""A pruner that reads no text; text ids for the encoder have their own limit."""
IMAGE = {"type": "image_url", "image_url": {"url": URL}}


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def values(count: int) -> dict[str, Any]:
    """A body of `count` JSON values, with strings full of brackets and commas."""
    params = {"list": [',[{:}]\\"' * 3] * (count - 5)}  # the body, question, image, params and its list
    return {"question": "[,{" * 1000, "image": URL, "pruner_params": params}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def padded(size: int) -> dict[str, str]:
    """Parameters of `size` bytes as JSON without spaces."""
    return {"é": "é" * ((size - 9) // 2) + "a" * ((size - 9) % 2)}


@pytest.mark.parametrize(
    ("make", "limit", "message"),
    [
        (lambda n: ask(question="é" * n), 8000, "question has 8,001 characters; 1 to 8,000 are accepted"),
        (lambda n: ask(question="\U0001f600" * n), 8000, "question has 8,001 characters; 1 to 8,000 are accepted"),
        (lambda n: ask(question="e\u0301" * (n // 2) + "a" * (n % 2)), 8000, "question has 8,001 characters"),
        (lambda n: {"messages": [user(IMAGE, text("a" * n))]}, 8000, "the last user turn has 8,001 characters"),
        (
            lambda n: {"messages": [user(IMAGE, text("a" * 4000), text("b" * (n - 4000)))]},
            8000,
            "the last user turn has 8,001 characters",
        ),
        (
            lambda n: {"messages": [user(IMAGE, text("a" * (n - 8000))), user(text("b" * 8000))]},
            32_000,
            "messages have 32,001 characters; up to 32,000 are accepted",
        ),
        (
            lambda n: {"messages": [user(IMAGE, text("a"))] + [user(text("a"))] * (n - 1)},
            256,
            "at most 256 entries is accepted, not of 257",
        ),
        (
            lambda n: {"messages": [user(IMAGE, *[text("a")] * (n - 1))]},
            64,
            "at most 64 entries is",
        ),
        (lambda n: {"question": "a", "images": [URL] * n}, 8, "9 images; up to 8 are accepted"),
        (lambda n: {"messages": [user(*[IMAGE] * n, text("a"))]}, 8, "9 images; up to 8 are accepted"),
        (lambda n: ask(stop=["a"] * n), 8, "at most 8 entries is accepted, not of 9"),
        (lambda n: ask(stop=["\U0001f600" * n]), 256, "at most 256 characters"),
        (lambda n: ask(stop="a" * n), 256, "stop: a text of at most 256 characters"),
        (lambda n: ask(max_tokens=n), 2048, "max_tokens is 2049; 1 to 2048 are accepted"),
        (lambda n: ask(timeout_s=n), 600, "timeout_s is 601; up to 600 is accepted"),
        (lambda n: ask(seed=n), 2**64 - 1, "a number below"),
        (lambda n: ask(keep_tokens=n, pruner="desap"), 2**32 - 1, "a number below"),
        (lambda n: ask(pruner_params=nested(n)), 8, "nested 9 deep; an object nested up to 8 deep is accepted"),
        (lambda n: ask(pruner_params=padded(n)), 4096, "4097 bytes as JSON without spaces; up to 4096 bytes"),
    ],
)
async def test_a_field_at_its_limit_and_one_beyond(
    start_gateway: StartGateway, make: Callable[[int], dict[str, Any]], limit: int, message: str
) -> None:
    gateway = await start_gateway()
    gateway.llm.info.max_model_len = 2**20
    for size in (limit - 1, limit):
        response = await gateway.http.post("/v1/answer", json=UNREAD | make(size))
        assert response.status_code == 200, response.text[:300]
    error = await gateway.refused(422, make(limit + 1))
    assert message in error["message"]


@pytest.mark.parametrize("as_form", [False, True])
@pytest.mark.parametrize(
    ("of_gateway", "of_llm", "expected"), [(32, 2048, 32), (2048, 64, 64), (32, 16, 16), (2048, 2048, 128), (32, 0, 32)]
)
async def test_the_default_of_max_tokens_is_at_most_the_limits_of_gateway_and_llm_service(
    start_gateway: StartGateway, of_gateway: int, of_llm: int, expected: int, as_form: bool
) -> None:
    gateway = await start_gateway(max_tokens=of_gateway)
    gateway.llm.info.max_tokens = of_llm
    form = {"data": {"question": "what?"}, "files": {"image": png()}}
    response = await gateway.http.post("/v1/answer", **(form if as_form else {"json": ask()}))
    assert response.status_code == 200, response.text
    assert gateway.llm.calls[0].sampling.max_tokens == expected


async def test_a_number_that_the_client_sends_is_not_capped(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_tokens=100)
    gateway.llm.info.max_tokens = 64
    assert "max_tokens is 128; 1 to 100 are" in (await gateway.refused(422, max_tokens=128))["message"]
    assert not gateway.llm.calls
    await gateway.answer(max_tokens=80)  # the LLM service refuses it itself
    assert gateway.llm.calls[0].sampling.max_tokens == 80


async def test_the_schema_tells_the_default_of_max_tokens(gateway: Gateway) -> None:
    operation = (await gateway.http.get("/openapi.json")).json()["paths"]["/v1/answer"]["post"]
    for body in operation["requestBody"]["content"].values():
        assert body["schema"]["properties"]["max_tokens"]["default"] == 128


@pytest.mark.parametrize("numbers", [{"x": 1.7976931348623157e308}, {"x": -(2**1023)}])
async def test_parameters_up_to_the_largest_number(gateway: Gateway, numbers: dict[str, float]) -> None:
    await gateway.answer(pruner_params=numbers)
    error = await gateway.refused(422, pruner_params={"x": 2**1024})
    assert error["message"] == "pruner_params: finite numbers are accepted, up to 1.8e308"


async def test_the_limit_on_json_values_ignores_characters_inside_strings(gateway: Gateway) -> None:
    for size in (16_383, 16_384):  # accepted as JSON; refused by the limit on parameters
        assert "4096 bytes" in (await gateway.refused(422, values(size)))["message"]
    error = await gateway.refused(400, values(16_385))
    assert error["message"] == "the request body holds more than the 16,384 JSON values accepted"


@pytest.mark.parametrize("question", ["," * 8000, "[" * 8000, '\\",{' * 2000, "\\" * 8000])
async def test_a_text_may_hold_any_number_of_commas_and_brackets(start_gateway: StartGateway, question: str) -> None:
    gateway = await start_gateway(max_question_chars=100_000)
    gateway.llm.info.max_model_len = 2**20
    turns = [user(IMAGE, text("a")), *[user(text(question[:7999])) for _ in range(4)]]
    for body in (ask(question=question), {"messages": turns}):
        response = await gateway.http.post("/v1/answer", json=body | UNREAD)
        assert response.status_code == 200, response.text[:300]
    form = {"messages": (None, json.dumps(turns)), "pruner": (None, "none")}
    assert (await gateway.http.post("/v1/answer", files=form)).status_code == 200


@pytest.mark.parametrize(
    ("container", "per_copy"), [("[{}]", 2), ("[[ ]]", 2), ('[{"a,b": "c,d"}]', 3), ('{"k%d": [1]}', 3)]
)
async def test_lists_and_objects_count_as_one_value_each(gateway: Gateway, container: str, per_copy: int) -> None:
    count, left = divmod(16_384 - 2, per_copy)  # without the body and its list
    for extra, status in ((left, 422), (left + 1, 400)):
        copies = [container.replace("%d", str(number)) for number in range(count)] + ["1"] * extra
        response = await gateway.http.post("/v1/answer", content=f'{{"colour": [{",".join(copies)}]}}')
        assert response.status_code == status, response.text


async def test_fields_of_a_form(gateway: Gateway) -> None:
    def form(fields: int) -> list[Any]:
        names = ["question", *(f"x{number}" for number in range(fields - 1))]
        return [*[(name, (None, "a")) for name in names], *[("image", (f"{i}.png", png())) for i in range(8)]]

    response = await gateway.http.post("/v1/answer", files=form(64))
    assert (response.status_code, "there is no field 'x" in response.text) == (422, True), response.text
    response = await gateway.http.post("/v1/answer", files=form(65))
    assert response.status_code == 400
    assert "more than the 64 fields accepted, files apart" in response.json()["error"]["message"]


async def test_fields_of_a_form_are_more_than_a_request_has() -> None:
    assert len(AnswerRequest.model_fields) + 8 < 64


@pytest.mark.parametrize("limit", [1, 8, 64])
@pytest.mark.parametrize("as_file", [True, False])
async def test_images_of_a_form(start_gateway: StartGateway, limit: int, as_file: bool) -> None:
    gateway = await start_gateway(max_images=limit)
    gateway.encoder.info.max_images = limit
    content: Any = ("a.png", png()) if as_file else (None, URL)
    for count in (limit, limit + 1, limit + 3):
        form = [("question", (None, "What?")), *[("images", content)] * count]
        response = await gateway.http.post("/v1/answer", files=form)
        assert response.status_code == (200 if count == limit else 422), response.text
        if count > limit:
            error = response.json()["error"]
            expected = f"at least {limit + 1} images; up to {limit} are accepted"
            assert (error["param"], error["message"]) == ("images", expected)


def _family_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "which no setting raises" in record.getMessage()]


async def test_a_setting_above_the_limit_of_the_family_is_told_once(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_MAX_IMAGES", "16")
    gateway = await start_gateway(max_videos=2)
    for shade in range(3):
        await gateway.http.get("/readyz")
        await gateway.answer(shade=shade)
        gateway.app.state.gateway.encoder.invalidate_info()
    assert gateway.encoder.info_calls > 1
    assert _family_warnings(caplog) == [
        "--max-images 16 (GATEWAY_MAX_IMAGES) is above the limit of family llava, which no setting raises: it takes up"
        " to 8 images in one question",
        "--max-videos 2 (GATEWAY_MAX_VIDEOS) is above the limit of family llava, which no setting raises: it takes no"
        " videos",
    ]


async def test_defaults_above_the_limit_of_the_family_are_not_told(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(max_images=8)
    assert (await gateway.http.get("/readyz")).status_code == 200
    encoder = await gateway.app.state.gateway.encoder.info()
    started = GatewaySettings.from_command_line(["--model", "m", "--max-images", "8"])
    assert started.max_videos > encoder.max_videos
    warn_of_family_limits(started, encoder)
    assert not _family_warnings(caplog)
    warn_of_family_limits(GatewaySettings.from_command_line(["--model", "m", "--max-images", "9"]), encoder)
    assert len(_family_warnings(caplog)) == 1


async def test_videos_and_other_files_of_a_form(gateway: Gateway) -> None:
    for field, message in (("video", "video was given 2 times; once is accepted"), ("clip", "files are accepted in")):
        form = [("question", (None, "What?")), *[(field, ("a", b"x"))] * 12]
        response = await gateway.http.post("/v1/answer", files=form)
        assert (response.status_code, message in response.text) == (422, True), response.text


async def test_bytes_of_bodies_and_files(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_body_bytes=4000, max_image_bytes=500)
    for size, status in ((3999, 200), (4000, 200), (4001, 413)):
        content = json.dumps(ask()).ljust(size).encode()
        assert (await gateway.http.post("/v1/answer", content=content)).status_code == status
    for size, status in ((499, 200), (500, 200), (501, 413)):
        image = png().ljust(size, b"\0")
        for body in (ask() | {"image": data_url(image)}, {"question": "a", "images": [data_url(image)]}):
            assert (await gateway.http.post("/v1/answer", json=body)).status_code == status
        files = {"question": (None, "a"), "image": ("a.png", image)}
        assert (await gateway.http.post("/v1/answer", files=files)).status_code == status
