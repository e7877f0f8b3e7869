"""Requests that two servers may read differently, or that cost much for each byte: refused, and the connection ends."""

from __future__ import annotations

import json

import pytest

from gateway.http.errors import HeadersTooLarge
from tests.unit.gateway.conftest import Gateway, StartGateway, ask
from tests.unit.gateway.raw_http import GET, RawConnection

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/answer HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

REFUSED = {
    "both lengths": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, other order": POST + b"transfer-encoding: Chunked\r\nCONTENT-LENGTH: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "two lengths in one": POST + b"Content-Length: 2, 3\r\n\r\n{}",
    "signed length": POST + b"Content-Length: +2\r\n\r\n{}",
    "hexadecimal length": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "length of 21 digits": POST + b"Content-Length: 000000000000000000002\r\n\r\n{}",
    "space before the colon": POST + b"Content-Length : 2\r\n\r\n{}",
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding before chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "vertical tab in a coding": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST /v1/answer HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "folded header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\r\n\tb\r\n\r\n",
    "folded first header": b"GET /healthz HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "bare line feed": b"GET /healthz HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n",
    "bare line feeds only": b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
    "bare carriage return": b"GET /healthz HTTP/1.1\r\nHost: localhost\rX: y\r\n\r\n",
    "zero byte": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
    "empty line first": b"\r\n" + GET,
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: y\r\n\r\n",
    "no version": b"GET /healthz\r\n\r\n",
    "space in the target": b"GET /health z HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "bytes in the target": b"GET /h\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS on a plain port": bytes.fromhex("16030100f5010000f10303") + b"x" * 100,
    "chunk size with sign": CHUNKED + b"-1\r\n{}\r\n0\r\n\r\n",
    "chunk size with prefix": CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
    "chunk with bare line feed": CHUNKED + b"2\r\n{}\n0\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", REFUSED.values(), ids=REFUSED.keys())
async def test_an_ambiguous_request_is_a_400_and_the_last_one(gateway_over_tcp: Gateway, request_bytes: bytes) -> None:
    async with RawConnection(gateway_over_tcp) as client:
        await client.send(request_bytes + SMUGGLED)
        response = await client.response()
        assert (response.status, response.error["code"]) == (400, "malformed_request")
        assert response.headers["connection"] == "close"
        assert response.headers["content-type"] == "application/json"
        assert await client.is_closed()


async def test_refused_requests_write_a_damped_line(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    gateway = await start_gateway(over_tcp=True)
    assert gateway.rest_server is not None
    gateway.rest_server._refusals._clock = lambda: now

    async def refused() -> str:
        async with RawConnection(gateway) as client:
            await client.send(b"secret\r\n\r\n")
            response = await client.response()
            assert response.status == 400
            return response.headers["x-request-id"]

    ids = [await refused() for _ in range(5)]
    now = 10.0
    ids.append(await refused())
    text = "a request was refused: 400, the request is not HTTP/1.1 (RFC 9112) (x-request-id: "
    assert [line for line in caplog.messages if line.startswith("a request was refused")] == [
        f"{text}{ids[0]})",
        f"{text}{ids[5]}) (4 more since the last such line)",
    ]


async def test_errors_say_what_is_accepted_and_repeat_nothing(gateway_over_tcp: Gateway) -> None:
    async with RawConnection(gateway_over_tcp) as client:
        await client.send(REFUSED["both lengths"])
        error = (await client.response()).error
        assert error["message"] == "the request has both Content-Length and Transfer-Encoding; one of them is accepted"
    async with RawConnection(gateway_over_tcp) as client:
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nsecret header\r\n\r\n")
        assert "secret" not in (await client.response()).error["message"]


TARGETS = [
    b"http://x/healthz",
    b"*",
    b"x:80",
    b"healthz",
    b"//healthz",
    b"/healthz%00",
    b"/../healthz",
    b"/%2e%2e/healthz",
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", [b"GET", b"CONNECT"])
async def test_targets_that_are_no_path_are_a_404(gateway_over_tcp: Gateway, method: bytes, target: bytes) -> None:
    async with RawConnection(gateway_over_tcp) as client:
        await client.send(method + b" " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        response = await client.response()
        assert (response.status, response.error["code"]) == (404, "not_found")


async def test_the_same_length_twice_is_one_length(gateway_over_tcp: Gateway) -> None:
    body = json.dumps(ask()).encode()
    length = b"Content-Length: %d\r\n" % len(body)
    async with RawConnection(gateway_over_tcp) as client:
        await client.send(POST + length + length + b"\r\n" + body + GET)
        assert [(await client.response()).status for _ in range(2)] == [200, 200]


HEADERS = {
    "many": b"a:\r\n" * 101,
    "as many as fit into one read": b"a:\r\n" * 60_000,
    "long": b"a: " + b"x" * 16_384 + b"\r\n",
    "as long as fits into one read": b"a: " + b"x" * 250_000 + b"\r\n",
    "without an end": b"a: " + b"x" * 250_000,
}


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS.keys())
async def test_large_headers_are_refused_before_they_are_parsed(gateway_over_tcp: Gateway, headers: bytes) -> None:
    async with RawConnection(gateway_over_tcp) as client:
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n" + SMUGGLED)
        response = await client.response()
        assert (response.status, response.error["code"]) == (431, HeadersTooLarge.code)
        assert response.error["message"].endswith("up to 16,384 bytes and 100 headers are")
        assert await client.is_closed()


async def test_ordinary_headers_are_accepted(gateway_over_tcp: Gateway) -> None:
    async with RawConnection(gateway_over_tcp) as client:
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"a: bc\r\n" * 99 + b"\r\n")
        assert (await client.response()).status == 200
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\na: " + b"x" * 16_000 + b"\r\n\r\n")
        assert (await client.response()).status == 200


async def test_many_tiny_chunks_are_refused(gateway_over_tcp: Gateway) -> None:
    async with RawConnection(gateway_over_tcp) as client:
        await client.send(CHUNKED + b"1\r\n \r\n" * 5000)
        response = await client.response()
        assert (response.status, response.error["code"]) == (400, "malformed_request")
        assert "chunks of the body are too small" in response.error["message"]
        assert await client.is_closed()


@pytest.mark.parametrize("size", [1, 300])
async def test_a_body_of_thousands_of_chunks_is_accepted(gateway_over_tcp: Gateway, size: int) -> None:
    body = json.dumps(ask()).encode()
    body += b" " * ((4000 if size == 1 else 300 * 5000) - len(body))
    chunks = [body[i : i + size] for i in range(0, len(body), size)]
    async with RawConnection(gateway_over_tcp) as client:
        await client.send(CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n")
        assert (await client.response()).status == 200


async def test_a_broken_body_ends_its_request(gateway_over_tcp: Gateway) -> None:
    body = json.dumps(ask()).encode()
    gateway_over_tcp.encoder.gate.shut()
    async with RawConnection(gateway_over_tcp) as client:
        await client.send(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await gateway_over_tcp.encoder.gate.reached.wait()
        await client.send(b"\x16\x03\x01")  # what follows is read after the response
        gateway_over_tcp.encoder.gate.open()
        assert [(await client.response()).status for _ in range(2)] == [200, 400]
        assert await client.is_closed()
