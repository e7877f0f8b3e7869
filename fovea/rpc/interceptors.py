"""Interceptors of the gRPC server. They check bearer tokens, parse messages, map exceptions to statuses, count calls.

A handler gets its message only after the message's sizes were checked and its bytes were counted as in flight. gRPC
delivers only complete messages. The bytes of incomplete messages are bounded by `max_message_bytes` times
`max_concurrent_rpcs`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_health.v1 import health

from fovea import telemetry, tracing
from fovea.errors import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    MalformedRequest,
    Overloaded,
    ServiceError,
    TooLarge,
    Unauthenticated,
    to_metadata,
)
from fovea.rpc.bearer_tokens import AUTHORIZATION, SiteTokens
from fovea.rpc.bytes_in_flight import BytesInFlight
from fovea.rpc.messages import parse_off_loop

__all__ = ["ANY_METHOD", "TRIED_KEY", "CallInterceptor", "TokenInterceptor", "abort"]

log = logging.getLogger(__name__)

ANY_METHOD: Final = "any"
"""Method label of calls that are refused early or are not to a Fovea service.

A caller can send any method name, so such names must not become labels of a metric."""

TRIED_KEY: Final = "fovea-tried"
"""Key of the metadata with the ids of the replicas that have refused the request, separated by commas.

A replica refuses such a call before it receives the message. A client can thus call again until another replica is
reached, at nearly no cost."""

# The text of an error is sent as a header, and clients refuse headers of more than 8 KiB.
_MAX_ERROR_CHARS: Final = 1000
_COPIES: Final = 2  # a message is held as bytes and as an object
_MAX_FOREIGN_BYTES: Final = 4096  # limit of a message to the health or reflection service
# Without this limit, a call that sends no message and has no deadline would stay in progress forever.
_RECEIVE_TIMEOUT_S: Final = 300.0


async def abort(method: str, error: BaseException, context: grpc.aio.ServicerContext) -> None:
    """Ends a call with the status of an error, and counts the call. An unexpected exception is also logged.

    Args:
        method: label of the method in metrics.
        error: exception that the call raised; any but a ServiceError or a cancellation is unexpected.
        context: context of the call.
    """
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
    """One call of a method.

    Attributes:
        label: name of the method in metrics.
        is_fovea: whether the method belongs to a Fovea service, not to health or reflection.
        request_type: type of the method's request messages.
        request_id: id of the request as the caller sent it; may be empty.
        in_flight: count of the bytes of all messages in progress.
        replica: id of this process.
        was_refused: whether this process has refused the request before.
        caller: calling span, see `tracing.TRACEPARENT_KEY`; may be empty.
    """

    label: str
    is_fovea: bool
    request_type: type[Message]
    request_id: str
    in_flight: BytesInFlight
    replica: str
    was_refused: bool
    caller: str

    def unary_unary(self, method: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        """Handler of a method with one request and one response."""

        async def call(_: object, context: grpc.aio.ServicerContext) -> Any:
            start = self._begin()
            try:
                with self._span():
                    response = await method(await self._receive(context), context)
            except grpc.aio.AbortError:  # the health service has already set NOT_FOUND
                raise
            except (Exception, asyncio.CancelledError) as error:
                await self._abort(error, context)
                raise AssertionError("context.abort never returns") from error
            self._succeeded(start)
            return response

        return call

    def unary_stream(self, method: Callable[[Any, Any], AsyncIterator[Any]]) -> Any:
        """Handler of a method with one request and a stream of responses."""

        async def call(_: object, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            start = self._begin()
            try:
                with self._span():
                    async for response in method(await self._receive(context), context):
                        yield response
            except (Exception, asyncio.CancelledError) as error:
                await self._abort(error, context)
            else:
                self._succeeded(start)

        return call

    def context_writer(self, method: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        """Handler of a method with one request that writes its responses through the context."""

        async def call(_: object, context: grpc.aio.ServicerContext) -> None:
            try:
                request = await self._receive(context)
            except (Exception, asyncio.CancelledError) as error:
                await abort(self.label, error, context)
                raise AssertionError("context.abort never returns") from error
            await method(request, context)

        return call

    def stream_stream(self, method: Callable[[Any, Any], AsyncIterator[Any]]) -> Any:
        """Handler of a method with a stream of requests and a stream of responses."""

        async def call(received: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            try:
                async for response in method(self._messages(received), context):
                    yield response
            except (Exception, asyncio.CancelledError) as error:
                await abort(self.label, error, context)

        return call

    async def _messages(self, received: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in received:
            yield await self._parse(data)

    async def _abort(self, error: BaseException, context: grpc.aio.ServicerContext) -> None:
        if isinstance(error, Overloaded):
            error.replica = self.replica
        await abort(self.label, error, context)

    def _span(self) -> AbstractContextManager[object]:
        """Span of a call to a Fovea service that belongs to a trace."""
        return tracing.span(self.label, caller=self.caller, is_server=True) if self.caller else nullcontext()

    def _begin(self) -> float:
        telemetry.request_id.set(self.request_id or telemetry.new_request_id())
        return time.perf_counter()

    def _succeeded(self, start: float) -> None:
        if self.is_fovea:
            telemetry.REQUESTS.labels(self.label, "ok").inc()
            telemetry.REQUEST_LATENCY_SECONDS.labels(self.label).observe(time.perf_counter() - start)

    async def _receive(self, context: grpc.aio.ServicerContext) -> Any:
        """Request message of the call. It is read only if the bytes in flight leave room for it."""
        if self.was_refused:
            raise Overloaded("this replica has refused the request before", retry_after_s=1.0)
        if self.is_fovea:
            self.in_flight.require_room()
        try:
            async with asyncio.timeout(_RECEIVE_TIMEOUT_S):
                data = await context.read()
        except TimeoutError:
            raise DeadlineExceeded(f"the message did not arrive within {_RECEIVE_TIMEOUT_S:g} s") from None
        if data is grpc.aio.EOF:
            raise MalformedRequest("the call brought no message")
        if self.is_fovea:
            self.in_flight.hold(_COPIES * len(data), context)
        return await self._parse(data)

    async def _parse(self, data: bytes) -> Any:
        if not self.is_fovea and len(data) > _MAX_FOREIGN_BYTES:
            raise TooLarge(f"a message of {len(data)} bytes; at most {_MAX_FOREIGN_BYTES} are accepted here")
        return await parse_off_loop(self.request_type, data)


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without the bearer token of a site. Health checks need none, because they reveal nothing.

    Args:
        tokens: bearer tokens of the accepted sites.
    """

    def __init__(self, tokens: SiteTokens) -> None:
        self._tokens = tokens

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        if details.method.startswith(f"/{health.SERVICE_NAME}/"):
            return await continuation(details)
        if self._tokens.site_of(_metadata_value(details, AUTHORIZATION)) is not None:
            return await continuation(details)

        async def refuse(requests: Any, context: grpc.aio.ServicerContext) -> None:
            error = Unauthenticated("no token of an accepted site; send authorization: Bearer TOKEN")
            await abort(ANY_METHOD, error, context)

        # With a handler of a request stream, gRPC does not read the request message into memory.
        return grpc.stream_unary_rpc_method_handler(refuse)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler: reads its message, counts the call, and turns its exceptions into statuses.

    A handler of one request message is registered as a handler of a request stream. gRPC then reads the message only
    when the wrapper asks for it, and keeps no copy.

    Args:
        in_flight: count of the bytes of all messages in progress.
        replica: id of this process; it is sent with each refusal.
    """

    def __init__(self, in_flight: BytesInFlight, replica: str) -> None:
        self._in_flight = in_flight
        self._replica = replica

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None:
            telemetry.REQUESTS.labels(ANY_METHOD, "unimplemented").inc()
            return None
        if handler.request_deserializer is None:  # the handler takes serialized messages
            return handler
        is_fovea = details.method.startswith("/fovea.")
        call = _Call(
            label=details.method.rsplit("/", 1)[1] if is_fovea else ANY_METHOD,
            is_fovea=is_fovea,
            request_type=type(handler.request_deserializer(b"")),
            request_id=_metadata_value(details, telemetry.REQUEST_ID_KEY),
            in_flight=self._in_flight,
            replica=self._replica,
            caller=_metadata_value(details, tracing.TRACEPARENT_KEY) if is_fovea else "",
            was_refused=self._replica in _metadata_value(details, TRIED_KEY).split(","),
        )
        serializer = handler.response_serializer
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(call.stream_stream(handler.stream_stream), None, serializer)
        if handler.unary_unary:
            return grpc.stream_unary_rpc_method_handler(call.unary_unary(handler.unary_unary), None, serializer)
        wrap = call.context_writer if inspect.iscoroutinefunction(handler.unary_stream) else call.unary_stream
        return grpc.stream_stream_rpc_method_handler(wrap(handler.unary_stream), None, serializer)


def _metadata_value(details: grpc.HandlerCallDetails, key: str) -> str:
    """First value of `key` in the call's metadata; empty where there is none."""
    return next((str(value) for name, value in details.invocation_metadata or () if name == key), "")
