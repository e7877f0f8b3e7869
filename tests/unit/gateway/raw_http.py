"""HTTP over raw sockets: requests that no client library would send, and responses with their connection."""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.unit.gateway.conftest import Gateway

__all__ = ["GET", "RawConnection", "RawResponse"]

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass(frozen=True)
class RawResponse:
    """A response as it was received."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """Error of an error response."""
        error = json.loads(self.body)["error"]
        assert set(error) - {"retry_after_s"} == {"message", "type", "param", "code"}
        return dict(error)


class RawConnection:
    """A connection to a gateway, or to host and port."""

    def __init__(
        self, gateway: Gateway | tuple[str, int], *, local: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        if isinstance(gateway, Gateway):
            url = urlsplit(str(gateway.http.base_url))
            assert url.hostname
            assert url.port
            gateway = url.hostname, url.port
        self._address = gateway
        self._local = (local, 0) if local else None
        self._tls = tls

    async def __aenter__(self) -> Self:
        self._timeout = asyncio.timeout(20)
        await self._timeout.__aenter__()
        self.reader, self.writer = await asyncio.open_connection(*self._address, local_addr=self._local, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.writer.transport.abort()
        await self._timeout.__aexit__(kind, error, traceback)

    async def send(self, data: bytes) -> None:
        """Sends `data`."""
        self.writer.write(data)
        await self.writer.drain()

    async def response(self) -> RawResponse:
        """The next response, which has a Content-Length."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self.reader.readexactly(int(headers["content-length"]))
        return RawResponse(int(status.split()[1]), headers, body)

    async def is_closed(self) -> bool:
        """Waits for the end of the connection; False if there is another byte first."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionResetError:
            return True
