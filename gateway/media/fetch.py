"""Images and videos by https URL, from allowed hosts only.

These rules prevent server-side request forgery: fetching is off unless hosts are listed; only https on the standard
port; every address that the host resolves to must be public; the connection goes to the checked address without a
second look-up; no redirects; bounded bytes and time; errors carry no detail of the network.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Final

import httpx

from fovea import telemetry
from fovea.errors import InvalidRequest, TooLarge
from gateway.media.addresses import is_public
from gateway.media.files import MediaKind
from gateway.media.urls import ascii_host, parse_media_url

__all__ = ["MediaFetcher", "resolve"]

log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 10.0
_ACCEPTED: Final = (
    "Accepted: a data URL, a file in a form of /v1/answer or /v1/explain, or an https URL of a host in the gateway's"
    " setting --fetch-hosts (GATEWAY_FETCH_HOSTS)"
)


def _accept(kind: MediaKind) -> str:
    return ", ".join(f"{start}*" if start.endswith("/") else start for start in kind.media_types)


async def resolve(host: str) -> list[str]:
    """All IP addresses of a host name.

    Raises:
        OSError: The name does not resolve.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class MediaFetcher:
    """Fetcher of images and videos from allowed hosts.

    Args:
        hosts: Allowed host names; empty turns fetching off.
        resolver: Function from a host name to its IP addresses.
        transport: HTTP transport; the default uses TLS with the system's certificates and no proxy.
    """

    def __init__(
        self,
        hosts: Collection[str],
        *,
        resolver: Callable[[str], Awaitable[list[str]]] = resolve,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._hosts = frozenset(map(ascii_host, hosts))
        self._resolve = resolver
        self._transport = transport

    async def close(self) -> None:
        """Closes the connections."""
        if self._transport is not None:
            await self._transport.aclose()

    def _get_transport(self) -> httpx.AsyncBaseTransport:
        # Created on first use: reading the system's certificates is slow, and most servers never fetch.
        # A bare transport instead of a client, which would handle cookies, redirects and encodings of untrusted hosts.
        if self._transport is None:
            self._transport = httpx.AsyncHTTPTransport(trust_env=False, limits=httpx.Limits(max_connections=16))
        return self._transport

    async def fetch(self, url: str, kind: MediaKind, *, field_path: str, max_bytes: int) -> bytes:
        """The body of an https URL, fetched within 10 s.

        Args:
            url: The URL as the client sent it.
            kind: Accepted formats; sent to the host in `Accept`, not checked here.
            field_path: Path of the URL in the request, for messages.
            max_bytes: Largest accepted body.

        Raises:
            InvalidRequest: Fetching is off, the URL is not allowed, or the host did not deliver the file.
            TooLarge: The body has more than `max_bytes`.
        """
        parsed_url = self._allowed(url, field_path)
        host = parsed_url.raw_host.decode("ascii")
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                addresses = await self._resolve(host)
                if not addresses or not all(map(is_public, addresses)):
                    raise InvalidRequest(f"{field_path}: its host is not on the public internet", param=field_path)
                return await self._get(parsed_url.copy_with(host=addresses[0]), host, kind, field_path, max_bytes)
        # UnicodeError: the host name cannot be encoded for DNS.
        except (OSError, httpx.HTTPError, TimeoutError, UnicodeError) as error:
            telemetry.count_failure(telemetry.FailureKind.FETCH)
            log.warning("a file could not be fetched: %s", type(error).__name__)
            raise InvalidRequest(f"{field_path} could not be fetched from its host", param=field_path) from error

    def _allowed(self, text: str, field_path: str) -> httpx.URL:
        if not self._hosts:
            raise InvalidRequest(
                f"{field_path} is a URL, but fetching is off on this server. {_ACCEPTED}, once it is set",
                param=field_path,
            )
        url = parse_media_url(text, field_path=field_path)
        if url.raw_host.decode("ascii") not in self._hosts:
            raise InvalidRequest(
                f"{field_path}: its host is not one from which this server fetches. {_ACCEPTED}",
                param=field_path,
            )
        return url

    async def _get(self, target: httpx.URL, host: str, kind: MediaKind, field_path: str, max_bytes: int) -> bytes:
        body = bytearray()
        async with self._response(target, host, kind) as response:
            if response.status_code != httpx.codes.OK:
                raise InvalidRequest(
                    f"{field_path}: its host answered with status {response.status_code} instead of"
                    f" {kind.article} {kind.noun}",
                    param=field_path,
                )
            if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
                raise InvalidRequest(
                    f"{field_path}: its host compressed the {kind.noun}, which is not accepted", param=field_path
                )
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > max_bytes:
                    raise TooLarge(
                        f"{field_path} has more than the {max_bytes:,} bytes accepted for {kind.article} {kind.noun}",
                        param=field_path,
                    )
        return bytes(body)

    @asynccontextmanager
    async def _response(self, target: httpx.URL, host: str, kind: MediaKind) -> AsyncIterator[httpx.Response]:
        request = httpx.Request(
            "GET",
            target,
            headers={
                "Host": f"[{host}]" if ":" in host else host,
                "Accept": _accept(kind),
                "Accept-Encoding": "identity",
            },
            # The certificate is checked against the host name, not the address.
            extensions={"sni_hostname": host, "timeout": httpx.Timeout(_TIMEOUT_S).as_dict()},
        )
        response = await self._get_transport().handle_async_request(request)
        try:
            yield response
        finally:
            await response.aclose()
