"""Pictures by URL: from allowed, public hosts, within limits, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from fovea.errors import InvalidRequest, ServiceError, TooLarge
from gateway.fetch import MediaFetcher, is_public
from gateway.media import PICTURE, VIDEO
from tests.unit.gateway.conftest import png

PUBLIC = "93.184.215.14"


class ToLoopback(httpx.AsyncHTTPTransport):
    """Carries what would go to the public internet over TLS to a plain server on this machine."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.asked: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
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
        }.get(path, (b"404 Not Found", b""))
        writer.write(b"HTTP/1.1 %s\r\nConnection: close\r\n\r\n%s" % (status, body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    yield ToLoopback(server.sockets[0].getsockname()[1])
    server.close()
    await server.wait_closed()


async def fetch_picture(fetcher: MediaFetcher, url: str) -> bytes:
    return await fetcher.fetch(url, PICTURE, name="image", max_bytes=4000)


def resolves_to(*addresses: str) -> Callable[[str], Awaitable[list[str]]]:
    async def resolver(host: str) -> list[str]:
        return list(addresses)

    return resolver


@pytest.fixture
async def fetcher(transport: ToLoopback) -> AsyncIterator[MediaFetcher]:
    fetcher = MediaFetcher(["pictures.example"], resolver=resolves_to(PUBLIC), transport=transport)
    yield fetcher
    await fetcher.close()


async def test_an_allowed_picture_comes_from_the_address_that_was_checked(
    fetcher: MediaFetcher, transport: ToLoopback
) -> None:
    assert await fetch_picture(fetcher, "https://Pictures.example/cat.png?size=1") == png()
    (request,) = transport.asked
    assert (request.url.host, request.url.scheme) == (PUBLIC, "https")
    assert request.headers["host"] == "pictures.example"
    assert request.extensions["sni_hostname"] == "pictures.example"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://elsewhere.example/a.png", "not one from which this server fetches"),
        ("http://pictures.example/a.png", "must be https"),
        ("https://pictures.example:8443/a.png", "standard port"),
        ("https://user:pw@pictures.example/a.png", "without user and password"),
        ("https://pictures.example@elsewhere.example/a.png", "without user and password"),
        ("https://[bad/a.png", "not a valid URL"),
        ("https://pictures.example/missing", "status 404"),
        ("https://pictures.example/away", "status 302"),
    ],
)
async def test_what_is_refused(fetcher: MediaFetcher, url: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        await fetch_picture(fetcher, url)
    assert caught.value.param == "image"
    assert PUBLIC not in caught.value.message


async def test_hosts_are_told_what_is_wanted_and_clients_where_it_stood(
    fetcher: MediaFetcher, transport: ToLoopback
) -> None:
    with pytest.raises(InvalidRequest, match=r"messages\.0\.content\.1: its host .* instead of a video") as caught:
        await fetcher.fetch("https://pictures.example/x", VIDEO, name="messages.0.content.1", max_bytes=4000)
    assert caught.value.param == "messages"
    assert transport.asked[0].headers["accept"] == "video/*, image/gif"


async def test_a_picture_is_not_read_past_the_limit(fetcher: MediaFetcher) -> None:
    with pytest.raises(TooLarge, match="4,000"):
        await fetch_picture(fetcher, "https://pictures.example/big")


@pytest.mark.parametrize("addresses", [["10.0.0.7"], [PUBLIC, "127.0.0.1"], ["169.254.169.254"], []])
async def test_names_that_lead_inside_are_refused(transport: ToLoopback, addresses: list[str]) -> None:
    fetcher = MediaFetcher(["pictures.example"], resolver=resolves_to(*addresses), transport=transport)
    with pytest.raises(ServiceError, match="not on the public internet") as caught:
        await fetch_picture(fetcher, "https://pictures.example/cat.png?size=1")
    assert not any(address in caught.value.message for address in addresses)
    assert not transport.asked
    await fetcher.close()


async def test_without_hosts_fetching_is_off() -> None:
    fetcher = MediaFetcher([])
    with pytest.raises(InvalidRequest, match="fetching is off"):
        await fetch_picture(fetcher, "https://pictures.example/cat.png")
    await fetcher.close()


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1",
     "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "2002:0a00:0001::", "64:ff9b::a00:1", "ff02::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)
