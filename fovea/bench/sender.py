"""Sender of single requests, with the class of each failure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Final, Self

import httpx

from fovea.bench.completion import ChunkReader, Completion, Failure, RequestFailed, error_message
from fovea.bench.endpoint import Endpoint
from fovea.client.connection_settings import tls_context
from fovea.client.event_stream import EventParser

__all__ = ["Sender"]

_MESSAGE_CHARACTERS: Final = 300
_ERROR_BYTES: Final = 2**16


class Sender:
    """HTTP client of one endpoint, with one connection for each client of the load.

    Args:
        endpoint: endpoint.
        connections: most connections.
        clock: clock in seconds.

    Raises:
        AnswerError: the file of certificate authorities that FOVEA_CA_FILE names cannot be used.
    """

    def __init__(self, endpoint: Endpoint, connections: int, clock: Callable[[], float]) -> None:
        self._endpoint, self._clock = endpoint, clock
        self._http = httpx.AsyncClient(
            headers={"content-type": "application/json", **endpoint.headers},
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            timeout=None,  # noqa: S113  # `send` has a deadline for the whole answer
            trust_env=False,
            verify=tls_context(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def send(self, body: bytes) -> Completion | Failure:
        """Sends one request, and reads its answer."""
        try:
            async with asyncio.timeout(self._endpoint.timeout_s):
                return await self._completion(body)
        except TimeoutError:
            return self._failure("timeout", f"no whole answer in {self._endpoint.timeout_s:g} s")
        except RequestFailed as error:
            return self._failure(error.kind, str(error))
        except httpx.ConnectError as error:
            return self._failure("no connection", self._endpoint.reason(error))
        except httpx.HTTPError as error:
            return self._failure("connection broken", self._endpoint.reason(error))

    async def _completion(self, body: bytes) -> Completion:
        reader, parser = ChunkReader(self._clock()), EventParser()
        async with self._http.stream("POST", self._endpoint.url("chat/completions"), content=body) as response:
            if response.status_code != httpx.codes.OK:
                raise RequestFailed(f"status {response.status_code}", await _reason(response))
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise RequestFailed("not a stream", f"the answer is {response.headers.get('content-type', 'untyped')}")
            async for chunk in response.aiter_bytes():
                for _, data in parser.feed(chunk):
                    reader.read(data, self._clock())
        return reader.completion(self._clock())

    def _failure(self, kind: str, message: str) -> Failure:
        return Failure(kind, self._endpoint.without_secrets(" ".join(message.split()))[:_MESSAGE_CHARACTERS])


async def _reason(response: httpx.Response) -> str:
    """Message of an error of the endpoint, or the start of what it sent instead."""
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > _ERROR_BYTES:
            break
    text = data.decode(errors="replace")
    try:
        message = error_message(json.loads(text))
    except ValueError:
        message = None
    return message or text
