"""Pixels of images, known by their headers before anything travels to a service."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from PIL import Image

from benchmarks.safety.costly_images import one_colour_gif, one_colour_webp
from fovea.errors import TooLarge, UnsupportedMedia
from gateway.media.fetch import MediaFetcher
from gateway.media.files import IMAGE, VIDEO, media_file
from gateway.media.inputs import MediaInput, MediaInputs, VideoInput
from gateway.media.loader import MediaLimits, MediaLoader
from tests.unit.gateway.chats import chat, text_part, user
from tests.unit.gateway.conftest import Gateway, StartGateway, ask, data_url

LARGE = one_colour_webp((7000, 7000))


def saved(form: str, size: tuple[int, int], **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_file_of_an_image_knows_its_pixels(form: str) -> None:
    file = media_file(saved(form, (30, 20)), IMAGE, field_path="image", max_bytes=10**6)
    assert file.num_pixels == 600


def test_pixels_of_a_gif_are_those_of_its_frame_and_a_video_has_none() -> None:
    gif = one_colour_gif((8, 8), canvas=(1, 1), offset=(92, 42))
    assert media_file(gif, IMAGE, field_path="image", max_bytes=10**6).num_pixels == 100 * 50
    assert media_file(gif, VIDEO, field_path="video", max_bytes=10**6).num_pixels == 0


def test_more_pixels_than_the_limit_are_refused_with_both_numbers() -> None:
    with pytest.raises(
        TooLarge, match=r"images\.2 has 7,000 x 7,000 pixels; at most 1,000 in all are accepted"
    ) as error:
        media_file(LARGE, IMAGE, field_path="images.2", max_bytes=10**6, max_pixels=1000)
    assert error.value.param == "images.2"
    assert media_file(LARGE, IMAGE, field_path="image", max_bytes=10**6, max_pixels=49_000_000).num_pixels == 49_000_000


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + bytes(16), b"GIF89a" + bytes(9), b"BM" + bytes(60)]
)
def test_an_image_without_a_header_is_refused_with_the_accepted_formats(data: bytes) -> None:
    with pytest.raises(
        UnsupportedMedia, match=r"image is an? .* image that is broken .*; JPEG, PNG, WebP, GIF and BMP"
    ):
        media_file(data, IMAGE, field_path="image", max_bytes=10**6)


def test_a_header_behind_too_many_segments_is_refused_by_its_field() -> None:
    with pytest.raises(TooLarge, match="more than 65,536 pieces") as error:
        media_file(b"\xff\xd8" + b"\xff\xe1\0\2" * 70_000, IMAGE, field_path="images.1", max_bytes=10**6)
    assert error.value.param == "images.1"


async def test_frames_of_a_list_have_the_limit_of_images() -> None:
    loader = MediaLoader(MediaFetcher(()), MediaLimits(1000, 10**6, 10**6, 10**6))
    small, large = (MediaInput(f"video.{number}", file) for number, file in enumerate((saved("PNG", (30, 30)), LARGE)))
    _, (video,) = await loader.load(MediaInputs(videos=[VideoInput("video", frames=(small, small))]), deadline=math.inf)
    assert [frame.num_pixels for frame in video.frames] == [900, 900]
    with pytest.raises(TooLarge, match=r"video\.1 has 7,000 x 7,000 pixels"):
        await loader.load(MediaInputs(videos=[VideoInput("video", frames=(small, large))]), deadline=math.inf)


@pytest.mark.parametrize("path", ["/v1/answer", "/v1/explain", "/v1/chat/completions"])
async def test_a_large_image_is_a_413_on_every_surface_and_is_not_sent(start_gateway: StartGateway, path: str) -> None:
    gateway: Gateway = await start_gateway(max_image_pixels=48_999_999)
    body = ask() | {"image": data_url(LARGE, "image/webp")}
    if path.endswith("completions"):
        part = {"type": "image_url", "image_url": {"url": data_url(LARGE, "image/webp")}}
        body = chat(user(text_part(), part))
    response = await gateway.http.post(path, json=body)
    assert response.status_code == 413, response.text
    assert "has 7,000 x 7,000 pixels; at most 48,999,999 in all are accepted" in response.json()["error"]["message"]
    assert not gateway.encoder.calls
