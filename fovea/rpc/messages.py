"""Parsing of serialized messages: sizes are checked first, and large messages are parsed off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from fovea.rpc.message_sizes import check_sizes, malformed

__all__ = ["parse", "parse_off_loop", "run_off_loop"]

M = TypeVar("M", bound=Message)
R = TypeVar("R")

# Checking the sizes of this many bytes takes at most 20 ms.
_OFF_LOOP_BYTES: Final = 16 * 1024
_parsers: Final = ThreadPoolExecutor(2, thread_name_prefix="messages")


def parse(kind: type[M], data: bytes) -> M:
    """The message of type `kind` in `data`.

    Raises:
        InvalidRequest: the message exceeds a limit of proto/fovea/v1/limits.proto.
        MalformedRequest: the bytes are not such a message.
    """
    check_sizes(data, kind.DESCRIPTOR)
    try:
        return kind.FromString(data)
    except DecodeError:
        raise malformed() from None


async def parse_off_loop(kind: type[M], data: bytes) -> M:
    """`parse`, in another thread for a large message.

    protobuf holds the interpreter lock while it creates objects, in whichever thread. Within the size limits that takes
    at most 30 ms and the time to copy the bytes.
    """
    if len(data) < _OFF_LOOP_BYTES:
        return parse(kind, data)
    return await run_off_loop(lambda: parse(kind, data))


async def run_off_loop(function: Callable[[], R]) -> R:
    """Result of `function()`, run in one of two threads that all calls share."""
    return await asyncio.get_running_loop().run_in_executor(_parsers, function)
