"""Where calls come in: bytes become messages, exceptions become statuses, and each call is counted.

A handler gets its message only after its sizes were checked and its bytes counted against those in flight. gRPC hands
over a message when it has all of it; until then `max_message_bytes` times `max_concurrent_rpcs` bounds what it holds.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import Message

from fovea import telemetry
from fovea.errors import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    MalformedRequest,
    ServiceError,
    TooLarge,
    to_metadata,
)
from fovea.rpc.bytes_in_flight import BytesInFlight
from fovea.rpc.messages import receive

__all__ = ["ANY", "Boundary", "fail"]

log = logging.getLogger(__name__)

ANY: Final = "any"
"""Method label of calls that are not ours: a name of the caller's choice is no label of a metric."""

# The text of an error travels as a header, and a client refuses headers beyond 8 KiB.
_MAX_ERROR_CHARS: Final = 1000
_COPIES: Final = 2  # of a message: as it came, and as an object
_MAX_FOREIGN_BYTES: Final = 4096  # of health and reflection
# A call whose message never comes would hold one of the places for calls, for ever if it brings no deadline.
_RECEIVE_S: Final = 300.0


async def fail(method: str, error: BaseException, context: grpc.aio.ServicerContext) -> None:
    """Ends a call with an error, counted; the one place where an exception becomes a status and a defect is logged."""
    if isinstance(error, asyncio.CancelledError):
        telemetry.REQUESTS.labels(method, Cancelled.code).inc()
        raise error
    if not isinstance(error, ServiceError):
        log.error("%s failed", method, exc_info=error)
        error = InternalError("the service failed on this request; its log tells why")
    telemetry.REQUESTS.labels(method, error.code).inc()
    message = error.message
    if len(message) > _MAX_ERROR_CHARS:
        message = message[:_MAX_ERROR_CHARS] + "..."
    # The frames of a traceback would keep the request in memory until the garbage collector finds them.
    error.__traceback__ = error.__context__ = error.__cause__ = None
    await context.abort(error.grpc_status, message, to_metadata(error))


@dataclass(frozen=True)
class _Call:
    """One call of a method that takes messages of type `kind`.

    Attributes:
        label: name of the method in metrics.
        is_ours: whether a service of Fovea is called, or else health or reflection.
        request_id: the caller's id of the request; may be empty.
    """

    label: str
    is_ours: bool
    kind: type[Message]
    request_id: str
    in_flight: BytesInFlight

    def unary(self, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        """The handler of a method that answers once."""

        async def call(_: object, context: grpc.aio.ServicerContext) -> Any:
            start = self._begin()
            try:
                response = await behaviour(await self._receive(context), context)
            except grpc.aio.AbortError:  # health says NOT_FOUND itself
                raise
            except (Exception, asyncio.CancelledError) as error:
                await fail(self.label, error, context)
                raise AssertionError("abort returns never") from error
            self._succeeded(start)
            return response

        return call

    def stream(self, behaviour: Callable[[Any, Any], AsyncIterator[Any]]) -> Any:
        """The handler of a method that answers several times."""

        async def call(_: object, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            start = self._begin()
            try:
                async for response in behaviour(await self._receive(context), context):
                    yield response
            except (Exception, asyncio.CancelledError) as error:
                await fail(self.label, error, context)
            else:
                self._succeeded(start)

        return call

    def watch(self, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        """The handler of a method that writes by itself."""

        async def call(_: object, context: grpc.aio.ServicerContext) -> None:
            try:
                request = await self._receive(context)
            except (Exception, asyncio.CancelledError) as error:
                await fail(self.label, error, context)
                raise AssertionError("abort returns never") from error
            await behaviour(request, context)

        return call

    def conversation(self, behaviour: Callable[[Any, Any], AsyncIterator[Any]]) -> Any:
        """The handler of a method that takes several messages and answers several times."""

        async def call(received: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            try:
                async for response in behaviour(self._messages(received), context):
                    yield response
            except (Exception, asyncio.CancelledError) as error:
                await fail(self.label, error, context)

        return call

    async def _messages(self, received: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in received:
            yield await self._parse(data)

    def _begin(self) -> float:
        telemetry.request_id.set(self.request_id or telemetry.new_request_id())
        return time.perf_counter()

    def _succeeded(self, start: float) -> None:
        if self.is_ours:
            telemetry.REQUESTS.labels(self.label, "ok").inc()
            telemetry.REQUEST_LATENCY_SECONDS.labels(self.label).observe(time.perf_counter() - start)

    async def _receive(self, context: grpc.aio.ServicerContext) -> Any:
        """The call's message. It is not even read while there is no room for it."""
        if self.is_ours:
            self.in_flight.require_room()
        try:
            async with asyncio.timeout(_RECEIVE_S):
                data = await context.read()
        except TimeoutError:
            raise DeadlineExceeded(f"the message did not arrive within {_RECEIVE_S:g} s") from None
        if data is grpc.aio.EOF:
            raise MalformedRequest("the call brought no message")
        if self.is_ours:
            self.in_flight.hold(_COPIES * len(data), context)
        return await self._parse(data)

    async def _parse(self, data: bytes) -> Any:
        if not self.is_ours and len(data) > _MAX_FOREIGN_BYTES:
            raise TooLarge(f"a message of {len(data)} bytes; at most {_MAX_FOREIGN_BYTES} are accepted here")
        return await receive(self.kind, data)


class Boundary(grpc.aio.ServerInterceptor):
    """Wraps every handler.

    Those that take one message become handlers of a stream: gRPC then leaves it to us when the message is read, and
    keeps no copy of it.

    Args:
        in_flight: count of the bytes of all messages under way.
    """

    def __init__(self, in_flight: BytesInFlight) -> None:
        self._in_flight = in_flight

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None:
            telemetry.REQUESTS.labels(ANY, "unimplemented").inc()
            return None
        if handler.request_deserializer is None:  # takes bytes
            return handler
        is_ours = details.method.startswith("/fovea.")
        call = _Call(
            label=details.method.rsplit("/", 1)[1] if is_ours else ANY,
            is_ours=is_ours,
            kind=type(handler.request_deserializer(b"")),
            request_id=_request_id(details),
            in_flight=self._in_flight,
        )
        serializer = handler.response_serializer
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(call.conversation(handler.stream_stream), None, serializer)
        if handler.unary_unary:
            return grpc.stream_unary_rpc_method_handler(call.unary(handler.unary_unary), None, serializer)
        wrap = call.watch if inspect.iscoroutinefunction(handler.unary_stream) else call.stream
        return grpc.stream_stream_rpc_method_handler(wrap(handler.unary_stream), None, serializer)


def _request_id(details: grpc.HandlerCallDetails) -> str:
    return next((str(v) for k, v in details.invocation_metadata or () if k == telemetry.REQUEST_ID_KEY), "")
