"""Every refusal names what is wrong and what is accepted, in one shape, and affects no other request."""

from __future__ import annotations

import base64
import io
import re
import struct
import zlib
from typing import Any

import httpx
import pytest
from PIL import Image

from fovea.processes.stack import Stack
from tests.e2e.conftest import Client, data_url

QUESTION = "Is there a red star?"


def assert_error(response: httpx.Response, status: int, code: str, says: str, param: str | None = None) -> None:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert says in error["message"], error["message"]
    if param is not None:
        assert error["param"] == param
    assert response.headers["x-request-id"]
    assert not re.search(r"127\.0\.0\.1|Traceback|site-packages|/[a-z_]+/[a-z_]+\.py", response.text)


@pytest.mark.parametrize(
    ("fields", "status", "code", "says", "param"),
    [
        ({"keep_tokens": 0}, 422, "invalid_request", "keep_tokens", "keep_tokens"),
        ({"keep_tokens": "auto", "pruner": "cls"}, 422, "invalid_request", "fovea can", "keep_tokens"),
        ({"keep_ratio": 1.5}, 422, "invalid_request", "keep_ratio", "keep_ratio"),
        ({"keep_tokens": 3, "keep_ratio": 0.5}, 422, "invalid_request", "at most one", None),
        ({"temperature": -1}, 422, "invalid_request", "temperature", "temperature"),
        ({"top_p": 0}, 422, "invalid_request", "top_p", "top_p"),
        ({"max_tokens": 0}, 422, "invalid_request", "max_tokens", "max_tokens"),
        ({"max_tokens": 10**6}, 422, "invalid_request", "2048", "max_tokens"),
        ({"stop": [""]}, 422, "invalid_request", "stop", None),
        ({"timeout_s": 10**6}, 422, "invalid_request", "timeout_s", "timeout_s"),
        ({"cache": "never"}, 422, "invalid_request", "bypass", "cache"),
        ({"temprature": 1}, 422, "invalid_request", "temperature", "temprature"),
        ({"images": ["cat.png"]}, 422, "invalid_request", "image and images were both given", "images"),
        ({"video_budget": "whole"}, 422, "invalid_request", "goes with a video", "video_budget"),
        ({"max_wire_bytes": 1}, 422, "invalid_request", "no room for one visual token", "max_wire_bytes"),
        ({"pruner": "desapp"}, 404, "not_found", "desap", "pruner"),
        ({"pruner_params": {"task_shar": 1}}, 422, "invalid_request", "task_share", None),
        ({"pruner_params": {"task_share": 7}}, 422, "invalid_request", "task_share", None),
        ({"model": "gpt-4"}, 404, "not_found", "fovea-lab", "model"),
    ],
)
def test_a_field_that_is_not_accepted(
    client: Client, picture: bytes, fields: dict[str, Any], status: int, code: str, says: str, param: str | None
) -> None:
    assert_error(client.post(picture, QUESTION, **fields), status, code, says, param)


@pytest.mark.parametrize("question", ["", "   ", None])
def test_an_empty_question(client: Client, picture: bytes, question: str | None) -> None:
    assert_error(client.post(picture, question), 422, "invalid_request", "question", "question")


def test_a_question_that_is_too_long(client: Client, picture: bytes) -> None:
    assert_error(client.post(picture, "a" * 8001), 422, "invalid_request", "8,000", "question")


def test_a_prompt_beyond_the_models_context_says_by_how_much(client: Client, picture: bytes) -> None:
    response = client.post(picture, "a " * 3900)
    assert_error(response, 422, "invalid_request", "more than", None)
    assert re.search(r"\d+ more than the model's context of \d+", response.json()["error"]["message"])


def test_two_marks_for_one_picture(client: Client, picture: bytes) -> None:
    assert_error(client.post(picture, "<image> or <image>?"), 422, "invalid_request", "<image>", "question")


def test_no_picture(client: Client) -> None:
    assert_error(client.post(None, QUESTION), 422, "invalid_request", "image", "image")


@pytest.mark.parametrize("content", [b"This is a letter, not a picture.", b"", b"\x89PNG\r\n\x1a\n but no more"])
def test_a_file_that_is_no_picture(client: Client, content: bytes) -> None:
    response = client.http.post("/v1/answer", data={"question": QUESTION}, files={"image": ("a.png", content)})
    assert_error(response, 415, "unsupported_media", "JPEG", None)


def test_the_broken_one_of_several_pictures_is_named(client: Client, picture: bytes, stack: Stack) -> None:
    urls = [data_url(picture), data_url(picture[: len(picture) // 2])]
    parts = [{"type": "text", "text": QUESTION}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]
    chat = {"model": "fovea-lab", "messages": [{"role": "user", "content": parts}]}
    for path, body, param in (
        ("chat/completions", chat, "messages.0.content.2.image_url"),
        ("answer", {"images": urls, "question": QUESTION}, "images"),
    ):
        response = httpx.post(f"{stack.url}/v1/{path}", json=body, timeout=60, trust_env=False)
        assert_error(response, 415, "unsupported_media", "image 2 of 2: the PNG image is broken or incomplete", param)


def test_a_data_url_that_is_no_base64(client: Client) -> None:
    response = client.http.post("/v1/answer", json={"question": QUESTION, "image": "data:image/png;base64,@@@"})
    assert_error(response, 400, "malformed_request", "base64", "image")


def test_an_https_picture_where_fetching_is_off(client: Client) -> None:
    response = client.http.post("/v1/answer", json={"question": QUESTION, "image": "https://example.com/a.png"})
    assert_error(response, 422, "invalid_request", "fetch", "image")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(side: int) -> bytes:
    """A file of a few hundred kilobytes that decodes to side x side grey pixels."""
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(side + 1)) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_a_picture_of_20000_by_20000_pixels(client: Client) -> None:
    assert_error(client.post(bomb(20_000), QUESTION), 413, "too_large", "pixels")


def test_a_picture_file_beyond_the_limit(client: Client, picture: bytes) -> None:
    large = picture + bytes(17 * 2**20)
    response = client.http.post("/v1/answer", data={"question": QUESTION}, files={"image": ("a.png", large)})
    assert_error(response, 413, "too_large", "16,777,216", "image")


def test_a_body_beyond_the_limit(client: Client) -> None:
    body = b'{"question": "' + b"a" * (21 * 2**20) + b'"}'
    response = client.http.post("/v1/answer", content=body, headers={"content-type": "application/json"})
    assert_error(response, 413, "too_large", "20,971,520")


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"])
def test_a_body_that_is_no_json_object(client: Client, body: bytes) -> None:
    response = client.http.post("/v1/answer", content=body, headers={"content-type": "application/json"})
    assert_error(response, 400, "malformed_request", "JSON")


def test_a_body_that_begins_as_utf_16(client: Client) -> None:
    body = '{"question": "?"}'.encode("utf-16")
    response = client.http.post("/v1/answer", content=body, headers={"content-type": "application/json"})
    assert_error(response, 415, "unsupported_media", "UTF-8")


def test_a_deadline_that_cannot_be_met(client: Client, picture: bytes) -> None:
    assert_error(client.post(picture, QUESTION, timeout_s=0.0001), 504, "deadline_exceeded", "timeout_s", "timeout_s")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v2/answer", 404), ("GET", "/v1/answer", 405)])
def test_a_path_or_method_that_is_not_there(client: Client, method: str, path: str, status: int) -> None:
    response = client.http.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_special_tokens_in_a_question_are_only_text(client: Client, picture: bytes) -> None:
    assert client.ask(picture, "Is there a red star?</s><s>")["usage"]["completion_tokens"] >= 0


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (3000, 30), (144, 7)])
def test_odd_but_honest_pictures_are_answered(client: Client, size: tuple[int, int]) -> None:
    file = io.BytesIO()
    Image.new("RGB", size, (20, 90, 200)).save(file, "PNG")
    assert client.ask(file.getvalue(), QUESTION)["usage"]["visual_tokens_total"] == 144


def test_a_picture_that_is_all_length(client: Client) -> None:
    file = io.BytesIO()
    Image.new("RGB", (1, 3000)).save(file, "PNG")
    assert_error(client.post(file.getvalue(), QUESTION), 422, "invalid_request", "100 times", "image")


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("WEBP", "RGBA"), ("GIF", "P"), ("BMP", "L")])
def test_the_accepted_formats(client: Client, kind: str, mode: str) -> None:
    file = io.BytesIO()
    Image.linear_gradient("L").convert(mode).save(file, kind)
    response = client.http.post(
        "/v1/answer", json={"question": QUESTION, "image": data_url(file.getvalue()).replace("png", kind.lower())}
    )
    assert response.status_code == 200, response.text


def test_a_request_id_is_kept_and_returned(client: Client, picture: bytes) -> None:
    response = client.http.post(
        "/v1/answer",
        json={"question": QUESTION, "image": "data:image/png;base64," + base64.b64encode(picture).decode()},
        headers={"x-request-id": "my-request-1"},
    )
    assert response.headers["x-request-id"] == "my-request-1"


def test_all_that_abuse_left_the_services_well(client: Client, stack: Stack, picture: bytes) -> None:
    stack.check()
    assert client.ask(picture, QUESTION)["answer"] in ("yes", "no")
