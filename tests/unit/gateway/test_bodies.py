"""Encodings and charsets of bodies: only unencoded UTF-8 is accepted."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from typing import Any

import pytest

from tests.unit.gateway.conftest import Gateway, ask, png


def body(**fields: Any) -> bytes:
    return json.dumps(ask(**fields)).encode()


@pytest.mark.parametrize(
    "encoding", ["gzip", "GZip", "x-gzip", "deflate", "br", "zstd", "identity, gzip", "gzip, gzip", "aes128gcm", "\xff"]
)
@pytest.mark.parametrize("path", ["/v1/answer", "/v1/explain"])
async def test_encoded_bodies_are_refused(gateway: Gateway, path: str, encoding: str) -> None:
    content = {"deflate": zlib.compress}.get(encoding, gzip.compress)(body())
    headers = {b"content-encoding": encoding.encode("latin-1"), b"content-type": b"application/json"}
    response = await gateway.http.post(path, content=content, headers=headers)
    assert response.status_code == 415, response.text
    assert response.headers["accept-encoding"] == "identity"
    error = response.json()["error"]
    assert (error["code"], "it is accepted as it is (identity)" in error["message"]) == ("unsupported_media", True)


async def test_one_of_several_encodings_is_enough(gateway: Gateway) -> None:
    headers = [("content-encoding", "identity"), ("content-encoding", "gzip")]
    response = await gateway.http.post("/v1/answer", content=body(), headers=headers)
    assert response.status_code == 415


async def test_other_errors_name_no_encoding(gateway: Gateway) -> None:
    response = await gateway.http.post("/v1/answer", content=body(), headers={"content-type": "text/plain"})
    assert (response.status_code, "accept-encoding" in response.headers) == (415, False)


@pytest.mark.parametrize("encoding", ["identity", "Identity", "", " , identity"])
async def test_unencoded_bodies_are_read(gateway: Gateway, encoding: str) -> None:
    response = await gateway.http.post("/v1/answer", content=body(), headers={"content-encoding": encoding})
    assert response.status_code == 200, response.text


async def test_a_byte_order_mark_of_utf8_is_skipped(gateway: Gateway) -> None:
    response = await gateway.http.post("/v1/answer", content=codecs.BOM_UTF8 + body())
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("charset", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
async def test_json_in_another_charset_is_refused(gateway: Gateway, charset: str) -> None:
    response = await gateway.http.post("/v1/answer", content=body().decode().encode(charset))
    assert response.status_code == 415, response.text
    assert "is not UTF-8, the only encoding of characters accepted" in response.json()["error"]["message"]


async def post_part(gateway: Gateway, headers: bytes, content: bytes, name: bytes = b"question") -> Any:
    part = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n%s\r\n%s\r\n'
    image = part % (b"image", b'; filename="a.png"', b"", png())
    form = part % (name, b"", headers, content) + image + b"--b--\r\n"
    return await gateway.http.post(
        "/v1/answer", content=form, headers={"content-type": "multipart/form-data; boundary=b"}
    )


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        (b"Content-Type: text/plain; charset=utf-8\r\n", "Où?".encode(), 200),
        (b"Content-Type: text/plain; charset=US-ASCII\r\n", b"What?", 200),
        (b"Content-Type: text/plain; charset=ISO-8859-1\r\n", b"What?", 200),
        (b"Content-Type: text/plain; charset=ISO-8859-1\r\n", "Où?".encode("latin-1"), 415),
        (b"Content-Type: text/plain; charset=utf-16\r\n", "What?".encode("utf-16"), 415),
        (b"Content-Type: text/plain; charset=utf-7\r\n", b"What?", 415),
        (b"Content-Type: text/plain; charset=\xff\r\n", b"What?", 415),
        (b"Content-Type: \xff; charset\r\n", b"What?", 415),
        (b"Content-Transfer-Encoding: 8bit\r\n", b"What?", 200),
        (b"Content-Transfer-Encoding: Binary \r\n", b"What?", 200),
        (b"Content-Transfer-Encoding: base64\r\n", b"V2hhdD8=", 415),
        (b"Content-Transfer-Encoding: quoted-printable\r\n", b"What=3F", 415),
        (b"Content-Encoding: gzip\r\n", b"What?", 415),
    ],
)
async def test_parts_of_forms_are_text_as_it_is(gateway: Gateway, headers: bytes, content: bytes, status: int) -> None:
    response = await post_part(gateway, headers, content)
    assert response.status_code == status, response.text
    if status != 200:
        assert response.json()["error"]["param"] == "question"
        assert "accepted" in response.json()["error"]["message"]
