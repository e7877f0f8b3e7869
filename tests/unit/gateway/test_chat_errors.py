"""`POST /v1/chat/completions`: errors name fields of the chat, in the client's own words."""

from __future__ import annotations

from typing import Any

import pytest

from fovea.errors import InvalidRequest, NotFound
from gateway.http.schemas.chat import FoveaOptions
from tests.unit.gateway.chats import chat, complete, image_part, refused, text_part, user
from tests.unit.gateway.conftest import Gateway, StartGateway, data_url, png

NAMES_OF_OTHERS = {"cache", "explain", "num_frames", "timeout_s"}
"""Options of Fovea with names that other servers may have for something else."""


@pytest.mark.parametrize(
    ("options", "param", "words"),
    [
        ({"keep_token": 4}, "fovea.keep_token", "accepted in fovea are num_frames, seconds_per_frame, "),
        ({"image": "x"}, "fovea.image", "accepted in fovea are "),
        ({"llm_pruner": {"name": "fastv", "keep": 1}}, "fovea.llm_pruner.keep", "accepted in llm_pruner are name, "),
        ({"keep_tokens": 4, "keep_ratio": 0.5}, "fovea.keep_ratio", "keep_tokens"),
        ({"keep_tokens": 0}, "fovea.keep_tokens", "at least 1 is accepted"),
        ({"keep_tokens": "many"}, "fovea.keep_tokens", "auto"),
        ({"cache": "never"}, "fovea.cache", "'use'"),
        ({"timeout_s": 1e6}, "fovea.timeout_s", "up to 600"),
        ({"num_frames": 8}, "fovea.num_frames", "a video file"),
        ({"keep_tokens": "auto"}, "fovea.keep_tokens", "cannot choose its budget"),
        ("desap", "fovea", "object"),
    ],
)
async def test_wrong_options_of_fovea_are_named(gateway: Gateway, options: Any, param: str, words: str) -> None:
    error = await refused(gateway, 422, chat(fovea=options))
    assert (error["param"], words in error["message"]) == (param, True), error


@pytest.mark.parametrize("name", sorted(set(FoveaOptions.model_fields) - NAMES_OF_OTHERS))
async def test_an_option_of_fovea_beside_its_field_is_refused_with_its_place(gateway: Gateway, name: str) -> None:
    error = await refused(gateway, 422, chat(**{name: "desap"}))
    assert error["param"] == name
    assert f'{{"fovea": {{"{name}": ...}}}}' in error["message"]


async def test_an_image_by_url_is_refused_with_what_takes_a_file(gateway: Gateway) -> None:
    error = await refused(
        gateway, 422, chat(user(text_part(), image_part() | {"image_url": {"url": "https://pictures.example/a.png"}}))
    )
    assert error["param"] == "messages.0.content.1.image_url"
    # A chat takes no upload, so the message names the endpoints that do.
    assert "a data URL, a file in a form of /v1/answer or /v1/explain, or an https URL" in error["message"]


async def test_errors_of_services_name_fields_of_the_chat(gateway: Gateway) -> None:
    error = await refused(gateway, 404, chat(fovea={"pruner": "dsap"}))
    assert (error["param"], "accepted: " in error["message"]) == ("fovea.pruner", True)
    gateway.encoder.error = InvalidRequest("beta is too large", param="pruner_params.beta")
    assert (await refused(gateway, 422, chat()))["param"] == "fovea.pruner_params.beta"
    gateway.encoder.error = InvalidRequest("wrong", param="text_ids")
    assert (await refused(gateway, 422, chat()))["param"] == "messages"
    for param in ("image", "images", "images[0]"):
        gateway.encoder.error = InvalidRequest("wrong", param=param)
        assert (await refused(gateway, 422, chat()))["param"] == "messages.0.content.1.image_url"
        # Services do not number the media in their errors.
        two = chat(user(text_part(), image_part(1), image_part(2)))
        assert (await refused(gateway, 422, two))["param"] == "messages"
    gateway.encoder.error = None
    gateway.llm.error = NotFound("no such pruner", param="llm_pruner")
    assert (await refused(gateway, 404, chat()))["param"] == "fovea.llm_pruner"
    gateway.llm.error = InvalidRequest("too many", param="max_tokens")
    assert (await refused(gateway, 422, chat(max_tokens=3)))["param"] == "max_tokens"
    assert (await refused(gateway, 422, chat(max_completion_tokens=3)))["param"] == "max_completion_tokens"


AUDIO = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}


@pytest.mark.parametrize(
    ("message", "param", "words"),
    [
        (user(text_part(), AUDIO), "messages.0.content.1", "type 'input_audio' is not accepted"),
        (user({"text": "a"}), "messages.0.content.0", "'text', 'image_url', 'video_url' are accepted"),
        (user(text_part(), {"type": "image_url"}), "messages.0.content.1.image_url", "the field is missing"),
        (user(text_part(), {"type": "image_url", "image_url": {}}), "messages.0.content.1.image_url.url", "missing"),
        (user(text_part(), {"type": "image_url", "image_url": 3}), "messages.0.content.1.image_url", "object"),
        (user({"type": "text", "text": 3}), "messages.0.content.0.text", "a text is accepted"),
        (user(text_part(" ")), "messages.0.content", "a text, an image or a video is needed"),
        ({"role": "user", "content": None}, "messages.0", "content is missing"),
        ({"role": "user", "content": []}, "messages.0", "content is missing"),
        ({"role": "user"}, "messages.0", "content is missing"),
        ({"role": "user", "content": 7}, "messages.0.content", "list"),
        ({"role": "tool", "content": "7"}, "messages.0.role", "'developer'"),
        ({"content": "a"}, "messages.0.role", "missing"),
        ("hello", "messages.0", "object"),
        ({"role": "assistant", "content": "a"}, "messages.0.role", "the assistant then answers"),
        ({"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}, "messages.0", "tool_calls"),
        ({"role": "system", "content": "a"}, "messages.0.role", "'user' is accepted"),
    ],
)
async def test_wrong_messages_are_named(gateway: Gateway, message: Any, param: str, words: str) -> None:
    error = await refused(gateway, 422, chat(message))
    assert (error["param"], words in error["message"]) == (param, True), error


async def test_media_are_accepted_in_turns_of_the_user_only(gateway: Gateway) -> None:
    error = await refused(gateway, 422, chat({"role": "system", "content": [image_part()]}, user()))
    assert error["param"] == "messages.0.content.0.image_url"


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("data:image/png;base64,!!!", 400),
        (data_url(b"hello"), 415),
        (data_url(png(), "text/plain"), 415),
        ("file:///etc/passwd", 422),
        ("http://127.0.0.1/cat.png", 422),
        ("https://pictures.example/cat.png", 422),
    ],
)
async def test_an_image_that_is_not_accepted_is_named_by_its_path(gateway: Gateway, url: str, status: int) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    history = [user(text_part(), image_part()), {"role": "assistant"}, user(text_part(), part)]
    error = await refused(gateway, status, chat(*history))
    assert error["param"] == "messages.2.content.1.image_url"
    assert "messages.2.content.1.image_url" in error["message"]


async def test_the_url_may_stand_without_an_object(gateway: Gateway) -> None:
    await complete(gateway, chat(user(text_part(), {"type": "image_url", "image_url": data_url(png(7))})))
    assert list(gateway.encoder.calls[0].images) == [png(7)]


async def test_limits_of_the_server_hold(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_images=2, max_question_chars=20, max_messages_chars=30)
    error = await refused(gateway, 422, chat(user(text_part(), *(image_part(i) for i in range(3)))))
    assert (error["param"], error["message"]) == ("messages", "3 images; up to 2 are accepted")
    assert (await refused(gateway, 422, chat(user(text_part("a" * 21), image_part()))))["param"] == "messages"
    history = [user(text_part("a" * 20)), {"role": "assistant", "content": "b"}, user(text_part("c" * 20))]
    assert "41 characters" in (await refused(gateway, 422, chat(*history)))["message"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 422, "messages"),
        ({"messages": []}, 422, "messages"),
        ({"messages": "hello"}, 422, "messages"),
        (chat(temperature=3), 422, "temperature"),
        (chat(temperature="0"), 422, "temperature"),
        (chat(max_tokens=0), 422, "max_tokens"),
        (chat(stop=["a"] * 9), 422, "stop"),
        (chat(stream="yes"), 422, "stream"),
        (chat(stream_options=[]), 422, "stream_options"),
    ],
)
async def test_wrong_fields_are_named(gateway: Gateway, body: dict[str, Any], status: int, param: str) -> None:
    assert (await refused(gateway, status, body))["param"] == param
