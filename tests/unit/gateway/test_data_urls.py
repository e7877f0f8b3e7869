"""Data URLs in the spellings of browsers, command lines and libraries."""

from __future__ import annotations

import base64
import contextlib
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fovea.errors import MalformedRequest, ServiceError, TooLarge, UnsupportedMedia
from gateway.media.files import IMAGE, VIDEO, decode_data_url
from tests.unit.gateway.conftest import Gateway, ask, png

FILE = (png() + b"\xfb\xef\xff" * 100)[:200]  # its base64 has +, / and padding
BASE64 = base64.b64encode(FILE).decode()
URL_SAFE = base64.urlsafe_b64encode(FILE).decode()


def decode(url: str, max_bytes: int = 1000) -> bytes:
    return decode_data_url(url, IMAGE, field_path="image", max_bytes=max_bytes).data


def wrapped(end: str, width: int = 76) -> str:
    return end.join(BASE64[i : i + width] for i in range(0, len(BASE64), width)) + end


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{BASE64}",
        f"DATA:IMAGE/PNG;BASE64,{BASE64}",
        f"data:image/png;charset=utf-8;name=a.png;base64,{BASE64}",
        f'data:image/png;name="{"a" * 500}";base64,{BASE64}',
        f"data: image/png ; base64 ,{BASE64}",
        f"data:;base64,{BASE64}",
        f"data:;charset=utf-8;base64,{BASE64}",
        f"data:application/octet-stream;base64,{BASE64}",
        f"data:binary/octet-stream;base64,{BASE64}",
        f"data:application/x-png;base64,{BASE64}",
        f"data:application/pdf;name=a;base64,{BASE64}",
        f"data:application/x-www-form-urlencoded;base64,{BASE64}",
        f"data:png;base64,{BASE64}",
        f"data:image/jpg;base64,{BASE64}",
        f"data:image/png;base64,{wrapped(chr(10))}",
        f"data:image/png;base64,{wrapped(chr(13) + chr(10))}",
        f"data:image/png;base64, {wrapped('  ', 3)}",
        f"data:image/png;base64,\t{wrapped(chr(12))}",
        f"data:image/png;base64,{BASE64.rstrip('=')}",
        f"data:image/png;base64,{URL_SAFE}",
        f"data:image/png;base64,{URL_SAFE.rstrip('=')}",
        f"data:image/png;base64,{quote(BASE64, safe='')}",
        f"data:image/png;base64,{quote(wrapped(chr(10)), safe='')}",
        f"data:image/png;base64,{quote(BASE64, safe='').replace('%2B', '%2b').replace('%2F', '%2f')}",
    ],
)
def test_it_is_read(url: str) -> None:
    assert BASE64.endswith("=")
    assert {"+", "/"} <= set(BASE64)
    assert decode(url) == FILE


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        (f"data:image/png,{BASE64}", MalformedRequest, "not of the form data:image/...;base64,..."),
        (f"data:image/png;base64;x=1,{BASE64}", MalformedRequest, "not of the form"),
        (f"data:image/png;base64{BASE64}", MalformedRequest, "not of the form"),
        (f"data:base64,{BASE64}", MalformedRequest, "not of the form"),
        ("data:image/png;base64", MalformedRequest, "not of the form"),
        ("data:" + ";" * 100_000 + "base64", MalformedRequest, "not of the form"),
        (
            f"data:Text/Plain;charset=utf-8;base64,{BASE64}",
            UnsupportedMedia,
            "^image is a data URL of the media type text/plain, not of an image; JPEG, PNG, WebP, GIF and BMP are",
        ),
        (f"data:text/html;base64,{BASE64}", UnsupportedMedia, "media type text/html"),
        (f"data:video/mp4;base64,{BASE64}", UnsupportedMedia, "media type video/mp4"),
        (f"data:audio/mpeg;base64,{BASE64}", UnsupportedMedia, "media type audio/mpeg"),
        (f"data:text/\x1b[31m\u2028\u00e9x;base64,{BASE64}", UnsupportedMedia, r"media type text/\[31mx, not"),
        ("data:text/" + "a" * 100_000 + ";base64,", UnsupportedMedia, "media type text/a{55}, not"),
        ("data:application/pdf;base64,JVBERi0xLjcK", UnsupportedMedia, "image is a PDF document"),
        ("data:;base64,aGVsbG8=", UnsupportedMedia, "JPEG, PNG, WebP, GIF and BMP are accepted"),
        ("data:image/png;base64,", UnsupportedMedia, "is not a file of an accepted format"),
        (f"data:image/png;base64,{BASE64[:-3]}", MalformedRequest, "not valid base64"),
        (f"data:image/png;base64,{BASE64}=A", MalformedRequest, "not valid base64"),
        (f"data:image/png;base64,{BASE64[:8]}={BASE64[8:]}", MalformedRequest, "not valid base64"),
        (f"data:image/png;base64,{BASE64}\x00", MalformedRequest, "not valid base64"),
        (f"data:image/png;base64,{BASE64}\xa0", MalformedRequest, "not valid base64"),
        (f"data:image/png;base64,{BASE64}\u2028", MalformedRequest, "not valid base64"),
        (f"data:image/png;base64,{BASE64}%", MalformedRequest, "not valid base64"),
        (f"data:image/png;base64,{BASE64}%\ud800", MalformedRequest, "not valid base64"),
        (f"data:image/png;base64,{BASE64}!", MalformedRequest, "not valid base64"),
    ],
)
def test_it_is_refused(url: str, error: type[ServiceError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        decode(url)
    assert caught.value.param == "image"


@pytest.mark.parametrize("media_type", ["application/mp4", "application/octet-stream", "binary/octet-stream", ""])
def test_a_video_of_a_type_that_names_no_kind_is_read(media_type: str) -> None:
    file = b"\0\0\0\x18ftypmp42" + bytes(12)
    url = f"data:{media_type};base64,{base64.b64encode(file).decode()}"
    assert decode_data_url(url, VIDEO, field_path="video", max_bytes=1000).data == file
    with pytest.raises(UnsupportedMedia, match="image is an MP4 video"):
        decode(url)


def test_an_image_is_no_video() -> None:
    for media_type, message in (
        ("image/png", "video is a data URL of the media type image/png, not of a video; MP4, WebM"),
        ("application/x-png", "video is a PNG image; MP4, WebM"),
    ):
        with pytest.raises(UnsupportedMedia, match=message):
            decode_data_url(f"data:{media_type};base64,{BASE64}", VIDEO, field_path="video", max_bytes=1000)


@pytest.mark.parametrize("size", [196, 197, 198, 199, 200])
def test_the_size_limit_counts_decoded_bytes(size: int) -> None:
    for text in (base64.b64encode(FILE[:size]).decode(), base64.b64encode(FILE[:size]).decode().rstrip("=")):
        url = "data:image/png;base64," + " \n".join(text)
        assert decode(url, max_bytes=size) == FILE[:size]
        with pytest.raises(TooLarge, match=f"more than the {size - 1} bytes"):
            decode(url, max_bytes=size - 1)


@given(st.text() | st.text().map("data:".__add__) | st.text().map("data:image/png;base64,".__add__))
def test_any_data_url_is_decoded_or_refused(url: str) -> None:
    for kind in (IMAGE, VIDEO):
        with contextlib.suppress(MalformedRequest, UnsupportedMedia, TooLarge):
            assert len(decode_data_url(url, kind, field_path="image", max_bytes=1000).data) <= 1000


async def test_white_space_around_a_url_is_dropped(gateway: Gateway) -> None:
    for image in (f" \r\n data:image/png;base64,{BASE64}\n", f"data:image/png;base64,{BASE64} "):
        response = await gateway.http.post("/v1/answer", json=ask() | {"image": image})
        assert response.status_code == 200, response.text
    assert [list(call.images) for call in gateway.encoder.calls] == [[FILE]]
    error = await gateway.refused(422, ask() | {"image": " https://pictures.example/a.png\n"})
    assert "fetching is off" in error["message"]
