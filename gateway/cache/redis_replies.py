"""Parser of Redis's replies, with bounds: a server that answers in place of Redis costs a gateway little.

It reads RESP2. RESP3 is not used, because there a server may send its clients to another address, where they present
their password.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from redis._parsers import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

__all__ = ["BoundedParser"]

_MAX_ITEMS: Final = 256
_MAX_DIGITS: Final = 20
_END: Final = b"\r\n"


class BoundedParser(BaseParser):
    """Parser of one connection. A reply beyond a bound is an InvalidResponse, after which the connection is closed.

    A line is bounded by 64 KiB of asyncio, a reply by `max_bytes` of strings and 256 items of arrays, also nested ones.

    Args:
        socket_read_size: Not used: asyncio reads from the socket.
        max_bytes: Bytes of all strings of a reply together.
    """

    def __init__(self, socket_read_size: int, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._stream: asyncio.StreamReader | None = None
        self._bytes_left = self._items_left = 0

    def on_connect(self, connection: Any) -> None:
        """Reads from a new connection."""
        self._stream = connection._reader  # as redis-py's own parsers do

    def on_disconnect(self) -> None:
        """Reads no more."""
        self._stream = None

    async def can_read(self) -> bool:
        """Whether there are bytes that no command has asked for, or the connection has ended."""
        stream = self._connected()
        return bool(stream._buffer) or stream.at_eof()  # type: ignore[attr-defined]  # StreamReader has no public name

    async def read_response(self, disable_decoding: bool = False) -> Any:
        """The next reply: bytes, a number, None, a list, or an error that the command raises.

        Raises:
            RedisError: The connection has ended, or the reply is not valid or beyond a bound.
        """
        self._bytes_left, self._items_left = self._max_bytes, _MAX_ITEMS
        reply = await self._read()
        if isinstance(reply, RedisConnectionError):
            raise reply
        return reply

    async def _read(self) -> Any:
        line = await self._line()
        kind, rest = line[:1], line[1:]
        match kind:
            case b"+":
                return rest
            case b"-":
                return self.parse_error(rest.decode("utf-8", errors="replace"))
            case b":":
                return _number(rest)
            case b"$":
                return await self._string(_number(rest))
            case b"*":
                return await self._array(_number(rest))
        raise InvalidResponse("a reply of Redis begins with an unknown type")

    async def _string(self, size: int) -> bytes | None:
        if size == -1:
            return None
        self._bytes_left -= size
        if size < 0 or self._bytes_left < 0:
            raise InvalidResponse(f"a reply of Redis has more than {self._max_bytes:,} bytes")
        data = await self._exactly(size + len(_END))
        return data[: -len(_END)]

    async def _array(self, size: int) -> list[Any] | None:
        if size == -1:
            return None
        self._items_left -= size
        if size < 0 or self._items_left < 0:
            raise InvalidResponse(f"a reply of Redis has more than {_MAX_ITEMS} items")
        return [await self._read() for _ in range(size)]

    async def _line(self) -> bytes:
        try:
            line = await self._connected().readuntil(_END)
        except asyncio.IncompleteReadError:
            raise RedisConnectionError("Redis has closed the connection") from None
        except asyncio.LimitOverrunError:
            raise InvalidResponse("a line of a reply of Redis is too long") from None
        return line[: -len(_END)]

    async def _exactly(self, size: int) -> bytes:
        try:
            return await self._connected().readexactly(size)
        except asyncio.IncompleteReadError:
            raise RedisConnectionError("Redis has closed the connection") from None

    def _connected(self) -> asyncio.StreamReader:
        if self._stream is None:
            raise RedisConnectionError("there is no connection to Redis")
        return self._stream


def _number(digits: bytes) -> int:
    if len(digits) > _MAX_DIGITS:
        raise InvalidResponse("a number in a reply of Redis has too many digits")
    try:
        return int(digits)
    except ValueError:
        raise InvalidResponse("a number in a reply of Redis is none") from None
