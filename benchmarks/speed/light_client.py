"""HTTP client that costs little: requests are bytes that were made before, and of a response only the body is read.

A full client takes as long as the server that is measured, and its time would count for both sides of a ratio.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from typing import Final, Self

import httpx

__all__ = ["Connection", "form_request", "requests_per_second"]

_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


def form_request(url: str, form: Mapping[str, str], image: bytes) -> bytes:
    """A whole request with a form, as httpx writes it.

    Args:
        url: Address of the resource.
        form: Text fields.
        image: File of the field `image`.
    """
    request = httpx.Request("POST", url, data=dict(form), files={"image": ("image.jpg", image, "image/jpeg")})
    lines = [b"POST %b HTTP/1.1" % request.url.raw_path, *(b"%b: %b" % header for header in request.headers.raw)]
    return b"\r\n".join([*lines, b"", request.read()])


class Connection:
    """An open connection, which is used for one request after the other.

    Args:
        reader, writer: Streams of the connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> Self:
        """A connection to the server of an address."""
        parsed = httpx.URL(url)
        return cls(*await asyncio.open_connection(parsed.host, parsed.port))

    async def send(self, request: bytes) -> bytes:
        """Body of the response.

        Raises:
            RuntimeError: The status is not 200.
        """
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(head)
        body = await self._reader.readexactly(int(length[1]) if length else 0)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"the server replied {head.splitlines()[0].decode()}: {body.decode()}")
        return body

    def close(self) -> None:
        """Closes the connection."""
        self._writer.close()


async def requests_per_second(url: str, requests: Sequence[bytes], in_flight: int) -> float:
    """Requests that are answered in a second, while each of `in_flight` connections sends one after the other.

    Args:
        url: Address of the server.
        requests: The requests, each sent once.
        in_flight: Number of connections.
    """
    connections = [await Connection.open(url) for _ in range(in_flight)]
    waiting = iter(requests)

    async def send_all(connection: Connection) -> None:
        for request in waiting:
            await connection.send(request)

    start = time.perf_counter()
    await asyncio.gather(*map(send_all, connections))
    seconds = time.perf_counter() - start
    for connection in connections:
        connection.close()
    return len(requests) / seconds
