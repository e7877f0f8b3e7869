"""Images by URL: only from allowed public hosts, within limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.errors import InvalidRequest, ServiceError, TooLarge
from gateway.media.fetch import MediaFetcher
from gateway.media.files import IMAGE, VIDEO
from gateway.media.urls import ascii_host
from gateway.settings import GatewaySettings
from tests.unit.gateway.conftest import StartGateway, ask, png

PUBLIC = "93.184.215.14"


class ToLoopback(httpx.AsyncHTTPTransport):
    """Transport that sends all requests to a plain HTTP server on this machine."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self.port)
        return await super().handle_async_request(httpx.Request(request.method, url, headers=request.headers))


@pytest.fixture
async def transport() -> AsyncIterator[ToLoopback]:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        status, body = {
            b"/cat.png?size=1": (b"200 OK", png()),
            b"/big": (b"200 OK", png() + bytes(5000)),
            b"/away": (b"302 Found\r\nLocation: /cat.png?size=1", b""),
            b"/astray": (b"302 Found\r\nLocation: https:no//host:99999", b""),
            b"/compressed": (b"200 OK\r\nContent-Encoding: gzip", b"\x1f\x8b"),
            b"/short": (b"200 OK\r\nContent-Length: 999", png()),
            b"/length": (b"200 OK\r\nContent-Length: -1", png()),
            b"/lengths": (b"200 OK\r\nContent-Length: 1\r\nContent-Length: 2", png()),
            b"/chunks": (b"200 OK\r\nTransfer-Encoding: chunked", b"zz\r\n"),
            b"/cookie": (b"200 OK\r\nSet-Cookie: a=\xff; expires=\xff; domain=..", png()),
            b"/header": (b"200 OK\r\n\xff\xfe: \x00", png()),
            b"/nothing": (b"", b""),
        }.get(path, (b"404 Not Found", b""))
        writer.write(b"HTTP/1.1 %s\r\nConnection: close\r\n\r\n%s" % (status, body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    yield ToLoopback(server.sockets[0].getsockname()[1])
    server.close()
    await server.wait_closed()


async def fetch_image(fetcher: MediaFetcher, url: str) -> bytes:
    return await fetcher.fetch(url, IMAGE, field_path="image", max_bytes=4000)


def resolves_to(*addresses: str) -> Callable[[str], Awaitable[list[str]]]:
    async def resolver(host: str) -> list[str]:
        return list(addresses)

    return resolver


@pytest.fixture
async def fetcher(transport: ToLoopback) -> AsyncIterator[MediaFetcher]:
    fetcher = MediaFetcher(["pictures.example"], resolver=resolves_to(PUBLIC), transport=transport)
    yield fetcher
    await fetcher.close()


async def test_an_allowed_image_comes_from_the_address_that_was_checked(
    fetcher: MediaFetcher, transport: ToLoopback
) -> None:
    assert await fetch_image(fetcher, "https://Pictures.example/cat.png?size=1") == png()
    (request,) = transport.requests
    assert (request.url.host, request.url.scheme) == (PUBLIC, "https")
    assert request.headers["host"] == "pictures.example"
    assert request.extensions["sni_hostname"] == "pictures.example"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://elsewhere.example/a.png", "not one from which this server fetches"),
        ("http://pictures.example/a.png", "an http URL, which is not fetched. Accepted: https://HOST/PATH"),
        ("http://pictures.example/a.png", "a data URL, or a file in a form of /v1/answer or /v1/explain"),
        ("https://pictures.example:8443/a.png", "standard port"),
        ("https://user:pw@pictures.example/a.png", "without user and password"),
        ("https://pictures.example@elsewhere.example/a.png", "without user and password"),
        ("https://[bad/a.png", "not a valid URL"),
        ("https://[v1.x]/a.png", "not a valid URL"),
        ("https://pictures.example:70000/a.png", "standard port"),
        ("https://pictures.example:x/a.png", "not a valid URL"),
        ("https://pictures.example/\x01", "without control characters is accepted"),
        ("https://pictures.example/a\n.png", "without control characters is accepted"),
        ("https://pictures.example/\x00", "without control characters is accepted"),
        ("https://pictures.example/\x7f", "without control characters is accepted"),
        ("https://pictures.example/\ud800", "not a valid URL"),
        ("https://" + "a" * 70_000, "70,008 characters; up to 8,192 are accepted"),
        ("https://pictures.example/" + "a" * 8168, "8,193 characters; up to 8,192 are accepted"),
        ("https://pictures.example/" + "a" * 8167, "status 404"),
        ("https://xn--zz--/a.png", "its host is not one"),
        ("https://" + "a" * 64 + ".example/a.png", "its host is not one"),
        ("https://\u2488.example/a.png", "not a valid URL"),
        ("https:///a.png", "not a valid URL"),
        ("https:pictures.example", "not a valid URL"),
        ("https:\\\\pictures.example/", "not a valid URL"),
        ("https://pictures.example\\@elsewhere.example/", "without user and password"),
        ("https://pictures.example/astray", "status 302"),
        ("https://pictures.example/compressed", "compressed the image"),
        ("https://pictures.example/short", "could not be fetched"),
        ("https://pictures.example/length", "could not be fetched"),
        ("https://pictures.example/lengths", "could not be fetched"),
        ("https://pictures.example/chunks", "could not be fetched"),
        ("https://pictures.example/header", "could not be fetched"),
        ("https://pictures.example/nothing", "could not be fetched"),
        ("https://pictures.example/missing", "status 404"),
        ("https://pictures.example/away", "status 302"),
    ],
)
async def test_what_is_refused(fetcher: MediaFetcher, url: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        await fetch_image(fetcher, url)
    assert caught.value.param == "image"
    assert PUBLIC not in caught.value.message


async def test_unusual_but_valid_urls(fetcher: MediaFetcher, transport: ToLoopback) -> None:
    assert await fetch_image(fetcher, "https://pictures.example:443/cat.png?size=1#part") == png()
    await fetch_image(fetcher, "https://pictures.example/cookie")
    await fetch_image(fetcher, "https://pictures.example/cookie")
    assert not any(
        "cookie" in request.headers for request in transport.requests
    )  # no cookies from one request to the next


async def test_a_host_may_be_an_internationalized_name(transport: ToLoopback) -> None:
    fetcher = MediaFetcher(["bücher.example"], resolver=resolves_to(PUBLIC), transport=transport)
    for host in ("bücher.example", "BÜCHER.example", "xn--bcher-kva.example"):
        assert await fetch_image(fetcher, f"https://{host}/cat.png?size=1") == png()
        assert transport.requests[-1].headers["host"] == "xn--bcher-kva.example"
    await fetcher.close()


async def test_a_public_ipv6_address_is_reached(transport: ToLoopback) -> None:
    fetcher = MediaFetcher(["pictures.example"], resolver=resolves_to("2606:4700:4700::1111"), transport=transport)
    assert await fetch_image(fetcher, "https://pictures.example/cat.png?size=1") == png()
    assert transport.requests[-1].url.host == "2606:4700:4700::1111"
    await fetcher.close()


URLS = st.text() | st.lists(
    st.sampled_from(
        ["https:", "//", "/", "\\", "@", ":", "443", "[", "]", "::1", "%", "?", "#", ".", "xn--", "\x00", "\u3002", "ß"]
    )
    | st.just("pictures.example")
    | st.characters(),
    max_size=12,
).map("".join)


@settings(deadline=None)
@given(URLS.map("https://pictures.example".__add__) | URLS.map("https:".__add__) | URLS)
def test_any_url_is_fetched_from_the_allowed_host_or_refused(url: str) -> None:
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(png()))

    fetcher = MediaFetcher(["pictures.example"], resolver=resolves_to(PUBLIC), transport=httpx.MockTransport(respond))
    with contextlib.suppress(InvalidRequest):
        assert asyncio.run(fetch_image(fetcher, url)) == png()
        assert requests
    for request in requests:
        assert (request.url.host, request.url.port, request.headers["host"]) == (PUBLIC, None, "pictures.example")


@pytest.mark.parametrize("host", ["a b@c", "a/b", "a:8443", "xn--\u2488", "a?"])
def test_invalid_host_names_are_refused_at_the_start(host: str) -> None:
    with pytest.raises(ValueError, match="not a host name"):
        ascii_host(host)
    with pytest.raises(ValueError, match="not a host name"):
        GatewaySettings(model="m", fetch_hosts=host)


@pytest.mark.parametrize("url", ["https://pictures.example/\x01", "https://pictures.example/" + "a" * 70_000])
async def test_urls_that_cannot_be_parsed_are_a_422(start_gateway: StartGateway, url: str) -> None:
    gateway = await start_gateway(fetch_hosts="pictures.example")
    turn = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    for fields, param in (
        ({"image": url}, "image"),
        ({"images": [url], "image": None}, "images"),
        ({"video": url, "image": None}, "video"),
        ({"video": [url], "image": None}, "video"),
        ({"messages": [{"role": "user", "content": turn}]}, "messages"),
    ):
        body = fields if "messages" in fields else ask() | fields
        error = await gateway.refused(422, body)
        assert (error["param"], "accepted" in error["message"]) == (param, True)


async def test_the_accept_header_and_errors_name_media_types_and_field_path(
    fetcher: MediaFetcher, transport: ToLoopback
) -> None:
    with pytest.raises(InvalidRequest, match=r"messages\.0\.content\.1: its host .* instead of a video") as caught:
        await fetcher.fetch("https://pictures.example/x", VIDEO, field_path="messages.0.content.1", max_bytes=4000)
    assert caught.value.param == "messages.0.content.1"
    assert transport.requests[0].headers["accept"] == "video/*, image/gif"


async def test_an_image_is_not_read_past_the_limit(fetcher: MediaFetcher) -> None:
    with pytest.raises(TooLarge, match="4,000"):
        await fetch_image(fetcher, "https://pictures.example/big")


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.7"],
        [PUBLIC, "127.0.0.1"],
        ["2606:4700:4700::1111", PUBLIC, "::7f00:1"],
        ["2606:4700:4700::1111", "64:ff9b:1::a00:1"],
        ["169.254.169.254"],
        [],
    ],
)
async def test_hosts_with_private_addresses_are_refused(transport: ToLoopback, addresses: list[str]) -> None:
    fetcher = MediaFetcher(["pictures.example"], resolver=resolves_to(*addresses), transport=transport)
    with pytest.raises(ServiceError, match="not on the public internet") as caught:
        await fetch_image(fetcher, "https://pictures.example/cat.png?size=1")
    assert not any(address in caught.value.message for address in addresses)
    assert not transport.requests
    await fetcher.close()


async def test_without_hosts_fetching_is_off() -> None:
    fetcher = MediaFetcher([])
    with pytest.raises(InvalidRequest, match="fetching is off"):
        await fetch_image(fetcher, "https://pictures.example/cat.png")
    await fetcher.close()
