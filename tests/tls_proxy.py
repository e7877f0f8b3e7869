"""A proxy that ends TLS in front of a server without it, such as a redis-server that was built so."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.certificates import Files

__all__ = ["tls_proxy"]


@asynccontextmanager
async def tls_proxy(certificate: Files, target_port: int) -> AsyncIterator[int]:
    """Runs the proxy on a free loopback port; yields the port.

    Args:
        certificate: Certificate of the proxy.
        target_port: Port of the server on 127.0.0.1.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.cert, certificate.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            from_target, to_target = await asyncio.open_connection("127.0.0.1", target_port)
            await asyncio.gather(_copy(reader, to_target), _copy(from_target, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies until the reader's end, then closes the writer."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
