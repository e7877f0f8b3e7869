"""Pictures and videos by https URL, from allowed hosts only.

A server that fetches what strangers name is a way into its own network, so: off unless hosts are listed; https on
its own port; every address that the name resolves to must be public; the connection goes to the address that was
checked, not to a second look-up; no redirects; bounded bytes and time; no detail of the network in an error.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Collection
from typing import Final
from urllib.parse import urlsplit

import httpx

from fovea import telemetry
from fovea.errors import InvalidRequest, TooLarge
from gateway.media import MediaKind, field_of

__all__ = ["MediaFetcher", "is_public", "resolve"]

log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 10.0
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, the addresses that tunnel to others excluded."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip.sixtofour is not None or ip.teredo is not None or ip in _NAT64:
            return False
    return ip.is_global and not ip.is_multicast


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
    """Fetches pictures and videos from allowed hosts.

    Args:
        hosts: Host names allowed, lower case; empty turns fetching off.
        resolver: Host name to IP addresses.
        transport: How requests leave; the default is TLS with the system's certificates, without proxies.
    """

    def __init__(
        self,
        hosts: Collection[str],
        *,
        resolver: Callable[[str], Awaitable[list[str]]] = resolve,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._hosts = frozenset(hosts)
        self._resolve = resolver
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.aclose()

    def _http(self) -> httpx.AsyncClient:
        # Made when first needed: reading the system's certificates takes a while, and most servers never fetch.
        if self._client is None:
            self._client = httpx.AsyncClient(
                transport=self._transport,
                follow_redirects=False,
                trust_env=False,
                timeout=_TIMEOUT_S,
                limits=httpx.Limits(max_connections=16),
            )
        return self._client

    async def fetch(self, url: str, kind: MediaKind, *, name: str, max_bytes: int) -> bytes:
        """The body behind an https URL, within 10 s.

        Args:
            url: Where it is.
            kind: What it has to be; nothing is checked here, the host is told.
            name: Where the URL stands in the request, for messages.
            max_bytes: Most bytes.

        Raises:
            InvalidRequest: Fetching is off, the URL is not allowed, or its host did not deliver.
            TooLarge: More than `max_bytes`.
        """
        param = field_of(name)
        host = self._allowed_host(url, name)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                addresses = await self._resolve(host)
                if not addresses or not all(map(is_public, addresses)):
                    raise InvalidRequest(f"{name}: its host is not on the public internet", param=param)
                return await self._get(url, host, addresses[0], kind, name, max_bytes)
        except (OSError, httpx.HTTPError, TimeoutError) as error:
            telemetry.FAILURES.labels("fetch").inc()
            log.warning("a file could not be fetched: %s", type(error).__name__)
            raise InvalidRequest(f"{name} could not be fetched from its host", param=param) from error

    def _allowed_host(self, url: str, name: str) -> str:
        param = field_of(name)
        if not self._hosts:
            raise InvalidRequest(
                f"{name} is a URL, but fetching is off on this server; send a data URL or upload the file", param=param
            )
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError as error:
            raise InvalidRequest(f"{name} is not a valid URL", param=param) from error
        if parts.scheme.lower() != "https" or port not in (None, 443) or parts.username or parts.password:
            raise InvalidRequest(
                f"{name}: a URL must be https on its standard port, without user and password", param=param
            )
        if host not in self._hosts:
            raise InvalidRequest(
                f"{name}: its host is not one from which this server fetches; send a data URL or upload the file",
                param=param,
            )
        return host

    async def _get(self, url: str, host: str, address: str, kind: MediaKind, name: str, max_bytes: int) -> bytes:
        parts = urlsplit(url)
        bracketed = f"[{address}]" if ":" in address else address
        target = httpx.URL(f"https://{bracketed}{parts.path or '/'}{'?' + parts.query if parts.query else ''}")
        body = bytearray()
        async with self._http().stream(
            "GET",
            target,
            headers={"Host": host, "Accept": _accept(kind), "Accept-Encoding": "identity"},
            extensions={"sni_hostname": host},  # the certificate is checked against the name, not the address
        ) as response:
            if response.status_code != httpx.codes.OK:
                raise InvalidRequest(
                    f"{name}: its host answered with status {response.status_code} instead of a {kind.noun}",
                    param=field_of(name),
                )
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > max_bytes:
                    raise TooLarge(
                        f"{name} has more than the {max_bytes:,} bytes accepted for a {kind.noun}",
                        param=field_of(name),
                    )
        return bytes(body)
