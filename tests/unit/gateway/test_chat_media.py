"""Images and videos of `POST /v1/chat/completions`, for a family whose template keeps their positions."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from fovea.v1 import encoder_pb2
from tests.unit.gateway.chats import chat, complete, image_part, refused, text_part, user
from tests.unit.gateway.conftest import Gateway, data_url, png

MP4 = b"\x00\x00\x00\x18ftypisom" + bytes(20)
VIDEO = {"type": "video_url", "video_url": {"url": data_url(MP4, "video/mp4"), "fps": 2}}


def frames(*files: bytes) -> dict[str, Any]:
    """Frames as vLLM's clients send them: files in base64 with commas between them, in one data URL."""
    joined = ",".join(base64.b64encode(file).decode() for file in files)
    return {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{joined}"}}


async def test_parts_stay_where_they_are(video_gateway: Gateway) -> None:
    for parts in ((image_part(), text_part("a")), (text_part("a"), image_part())):
        await complete(video_gateway, chat(user(*parts), model=None))
    first, second = (list(call.input_ids) for call in video_gateway.llm.calls)
    assert sorted(first) == sorted(second)
    image_id = video_gateway.llm.info.image_token_id
    assert first.index(image_id) < second.index(image_id)


async def test_a_video_reaches_the_encoder_with_its_options(video_gateway: Gateway) -> None:
    completion = await complete(
        video_gateway,
        chat(user(VIDEO, text_part(), image_part(3)), model=None, fovea={"num_frames": 8}, media_io_kwargs={}),
    )
    encode = video_gateway.encoder.calls[0]
    assert [(video.file, video.num_frames) for video in encode.videos] == [(MP4, 8)]
    assert list(encode.images) == [png(3)]
    # Visual tokens are sent in the order of the prompt, in which the video is first.
    assert [tokens.grid.frames for tokens in video_gateway.llm.calls[0].visual_tokens] == [2, 1]
    details = completion["usage"]["prompt_tokens_details"]
    assert (details["image_tokens"], details["image_tokens_before"]) == (9, 18)


async def test_a_video_that_cannot_be_loaded_is_named_by_its_path(video_gateway: Gateway) -> None:
    wrong = {"type": "video_url", "video_url": {"url": data_url(b"hello", "video/mp4")}}
    error = await refused(video_gateway, 415, chat(user(text_part(), wrong), model=None))
    assert error["param"] == "messages.0.content.1.video_url"
    assert "messages.0.content.1.video_url is not a file of an accepted format; MP4" in error["message"]


async def test_frames_in_one_data_url_are_a_video(video_gateway: Gateway) -> None:
    options = {"seconds_per_frame": 0.5, "video_budget": "whole"}
    await complete(video_gateway, chat(user(frames(png(1), png(2)), text_part()), model=None, fovea=options))
    encode = video_gateway.encoder.calls[0]
    (video,) = encode.videos
    assert (list(video.frames.images), video.frames.seconds_per_frame) == ([png(1), png(2)], 0.5)
    assert encode.video_budget == encoder_pb2.VIDEO_BUDGET_WHOLE


@pytest.mark.parametrize(
    ("video", "status", "param", "words"),
    [
        (frames(png(), b"hello"), 415, "video_url.1", "is not a file of an accepted format; JPEG"),
        (frames(png(), b""), 415, "video_url.1", "is not a file of an accepted format; JPEG"),
        (frames(*[b""] * 65), 422, "video_url", "65 frames of a video; up to 64 are accepted"),
        (frames(*[b""] * 1025), 422, "video_url", "has 1,025 frames; up to 1,024 are accepted"),
    ],
    ids=["not an image", "nothing", "more than the setting", "more than any setting"],
)
async def test_frames_that_are_not_accepted_are_named(
    video_gateway: Gateway, video: dict[str, Any], status: int, param: str, words: str
) -> None:
    error = await refused(video_gateway, status, chat(user(text_part(), video), model=None))
    assert error["param"] == f"messages.0.content.1.{param}"
    assert words in error["message"]


async def test_an_image_without_a_text_is_answered_and_pruned_without_a_question(video_gateway: Gateway) -> None:
    await complete(video_gateway, chat(user(image_part(4)), model=None))
    await complete(video_gateway, chat(user(image_part(5), text_part(" ")), model=None))
    first, second = video_gateway.encoder.calls
    assert (list(first.images), list(second.images)) == ([png(4)], [png(5)])
    assert list(first.text_ids) == list(second.text_ids) == []


async def test_a_chat_without_media_has_the_templates_prompt(video_gateway: Gateway) -> None:
    for role, content in (("developer", [text_part("hello")]), ("system", "hello")):
        history = [{"role": role, "content": "Be brief."}, {"role": "user", "content": content}]
        await complete(video_gateway, chat(*history, model=None))
    assert not video_gateway.encoder.calls
    assert len(video_gateway.llm.calls) == 1  # the two have the same prompt
