"""Serialized messages to objects: sizes first, and large ones off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from fovea.rpc.message_sizes import check_sizes, malformed

__all__ = ["off_loop", "parse", "receive"]

M = TypeVar("M", bound=Message)
R = TypeVar("R")

# A walk over this many bytes takes 20 ms at the very worst.
_OFF_LOOP_BYTES: Final = 16 * 1024
_readers: Final = ThreadPoolExecutor(2, thread_name_prefix="messages")


def parse(kind: type[M], data: bytes) -> M:
    """The message of type `kind` in `data`.

    Raises:
        InvalidRequest: the message is larger than proto/fovea/v1/limits.proto allows.
        MalformedRequest: the bytes are no such message.
    """
    check_sizes(data, kind.DESCRIPTOR)
    try:
        return kind.FromString(data)
    except DecodeError:
        raise malformed() from None


async def receive(kind: type[M], data: bytes) -> M:
    """As `parse`, in another thread where it may take long.

    protobuf holds the interpreter lock while it makes objects, wherever it runs. With sizes checked that is 30 ms for
    the most numbers that a message may hold, and a copy of its bytes.
    """
    if len(data) < _OFF_LOOP_BYTES:
        return parse(kind, data)
    return await off_loop(lambda: parse(kind, data))


async def off_loop(read: Callable[[], R]) -> R:
    """`read()` in one of two threads that all calls share."""
    return await asyncio.get_running_loop().run_in_executor(_readers, read)
