"""Headers as large as the server reads them: each is answered, and none costs more than its size."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.unit.gateway.conftest import Gateway, StartGateway

LARGE = 15_000  # bytes, less than the 16 KiB that are accepted
ORIGIN = b"Origin: https://app.example"


async def status_of(gateway: Gateway, line: bytes, headers: list[bytes], body: bytes = b"") -> int:
    """Status of a request with these bytes, on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.http.base_url.port)
    first = [] if any(header.startswith(b"Host:") for header in headers) else [b"Host: localhost"]
    writer.write(b"\r\n".join([line + b" HTTP/1.1", *first, b"Connection: close", *headers, b"", body]))
    async with asyncio.timeout(60):
        response = await reader.read()
    writer.close()
    return int(response.split(b" ", 2)[1])


async def test_large_headers_are_answered(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True, cors_origins="https://app.example")
    post, docs = b"POST /v1/answer", b"GET /docs/swagger-ui-bundle.js"
    preflight = [ORIGIN, b"Access-Control-Request-Method: POST"]
    for line, headers, status in (
        (post, [b"a:b"] * 90, 400),  # an empty body
        (post, [b"Content-Encoding: "] * 90, 400),
        (post, [b"Content-Encoding: " + b"," * LARGE], 400),
        (post, [b'Content-Type: multipart/form-data; a="' + b";" * LARGE], 415),
        (post, [b"Content-Type: application/json" + b";a=b" * (LARGE // 4)], 415),
        (post, [b"Host: " + b"a" * LARGE], 403),
        (post, [b"Origin: https://" + b"a" * LARGE], 403),
        (post, [b"Sec-Fetch-Site: " + b"a" * LARGE], 403),
        (post, [b"x-request-id: " + b"a" * LARGE], 400),
        (post + b"?" + b"a&" * (LARGE // 2), [], 400),
        (b"OPTIONS /v1/answer", [*preflight, b"Access-Control-Request-Headers: " + b"a," * (LARGE // 2)], 200),
        (docs, [b"Range: bytes=" + b",".join(b"%d-%d" % (i, i) for i in range(0, LARGE // 8, 2))], 200),
        (b"GET /v1/models/" + b"%61" * (LARGE // 3), [], 404),
    ):
        assert (line[:20], headers[-1:], await status_of(gateway, line, headers)) == (line[:20], headers[-1:], status)
    # More than the server reads: the connection is closed, with a 431 or before it arrives.
    with contextlib.suppress(ConnectionResetError):
        assert await status_of(gateway, post, [b"a:b"] * 50_000) == 431
    assert not gateway.encoder.calls
    assert (await gateway.http.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b'Content-Disposition: form-data; name="question"', 422),
        (b'Content-Disposition: form-data; name="question"' + b"\r\na: b" * 7, 422),
        (b'Content-Disposition: form-data; name="question"' + b"\r\na: b" * 8, 400),
        (b'Content-Disposition: form-data; name="question"; a="' + b";" * 4000 + b'"', 422),
        (b'Content-Disposition: form-data; name="question"; a="' + b";" * 5000 + b'"', 400),
        (b'Content-Disposition: form-data; name="question"\r\nContent-Type: text/plain' + b";a=b" * 1200, 400),
    ],
)
async def test_headers_of_a_part_of_a_form_are_bounded(gateway: Gateway, headers: bytes, status: int) -> None:
    body = b"--b\r\n" + headers + b"\r\n\r\nWhat?\r\n--b--\r\n"
    kind = {"content-type": "multipart/form-data; boundary=b"}
    response = await gateway.http.post("/v1/answer", content=body, headers=kind)
    assert response.status_code == status, response.text


async def test_the_limit_of_the_content_type_is_named(gateway: Gateway) -> None:
    for length, status in ((1024, 200), (1025, 415)):
        kind = "application/json; a=".ljust(length, "b")
        response = await gateway.http.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "What?"}]},
            headers={"content-type": kind},
        )
        assert response.status_code == status, response.text
    assert "1,025 characters; up to 1,024 are accepted" in response.json()["error"]["message"]
