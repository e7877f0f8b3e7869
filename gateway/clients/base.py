"""Base of both clients: channel, deadlines, error mapping, health checks and service info."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fovea import telemetry, tracing
from fovea.errors import (
    CheckpointMismatch,
    InternalError,
    ServiceError,
    Unauthenticated,
    Unavailable,
    from_rpc_error,
)
from fovea.repeated_message import RepeatedMessage
from fovea.rpc.channel import Access, Connection
from fovea.rpc.interceptors import TRIED_KEY
from fovea.rpc.messages import parse_off_loop

__all__ = ["INFO_RETRY_S", "INFO_TIMEOUT_S", "INFO_TTL_S", "ServiceClient"]

log = logging.getLogger(__name__)

INFO_TTL_S: Final = 5.0
INFO_RETRY_S: Final = 1.0
INFO_TIMEOUT_S: Final = 3.0
_INFO_WAIT_S: Final = 0.2

InfoT = TypeVar("InfoT")
M = TypeVar("M", bound=Message)


class ServiceClient(Generic[InfoT]):
    """Client of one service. The info of the service is cached, and refreshed in a background task.

    Args:
        target: Address of the service: host:port, or dns:///name:port.
        max_message_bytes: Maximum size of a message in bytes, in either direction.
        access: TLS and bearer token; None for neither.
        clock: Monotonic clock in seconds.
        on_first_info: Function that gets the first info of the service; None for none.

    Attributes:
        name: Name of the service in error texts and logs.
        service: Name of the gRPC service.
        refuses_token: Whether the service has refused a call for a wrong or missing bearer token. False again when it
            reports its info.
    """

    name: str
    service: str

    def __init__(
        self,
        target: str,
        *,
        max_message_bytes: int,
        access: Access | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_first_info: Callable[[InfoT], None] | None = None,
    ) -> None:
        self.connection = Connection(target, max_message_bytes=max_message_bytes, access=access or Access())
        self._clock = clock
        self._on_first_info = on_first_info
        self._info: InfoT | None = None
        self._info_expires_at = -float("inf")
        self._info_task: asyncio.Task[InfoT] | None = None
        self._unresponsive = False
        self.refuses_token = False
        # During an outage every request fails, and some try several times.
        self._unavailable = RepeatedMessage(log, logging.WARNING, clock=clock)
        self._refused_token = RepeatedMessage(log, logging.ERROR, clock=clock)

    async def fetch_info(self) -> InfoT:
        """Info of the service: checkpoint, limits and pruners."""
        raise NotImplementedError

    @property
    def fresh_info(self) -> InfoT | None:
        """Last info of the service; None if it is to be refreshed."""
        return self._info if self._clock() < self._info_expires_at else None

    async def info(self) -> InfoT:
        """Info of the service, at most `INFO_TTL_S` old unless the service does not respond.

        Concurrent callers share one call. Expired info is refreshed first, which takes milliseconds. If the service
        does not respond, the last info is returned after at most `_INFO_WAIT_S`, and at once from then on, so that
        cached answers are still served.

        Raises:
            ServiceError: The service has never responded.
        """
        if (fresh := self.fresh_info) is not None:
            return fresh
        if self._info_task is None:
            self._info_task = asyncio.create_task(self._refresh_info())
            self._info_task.add_done_callback(self._on_info_done)
        task = self._info_task
        if self._info is None:
            return await asyncio.shield(task)
        if not self._unresponsive:
            done, _ = await asyncio.wait([task], timeout=_INFO_WAIT_S)
            self._unresponsive = self._unresponsive or not done
        return self._info

    async def _refresh_info(self) -> InfoT:
        is_first = self._info is None
        try:
            self._info = await self.fetch_info()
        except ServiceError:
            self._info_expires_at, self._unresponsive = self._clock() + INFO_RETRY_S, True
            if self._info is not None:
                telemetry.count_failure(telemetry.FailureKind.MODEL_INFO)
            raise
        self._info_expires_at, self._unresponsive = self._clock() + INFO_TTL_S, False
        self.refuses_token = False
        if is_first and self._on_first_info is not None:
            self._on_first_info(self._info)
        return self._info

    def _on_info_done(self, task: asyncio.Task[InfoT]) -> None:
        self._info_task = None
        if not task.cancelled():
            task.exception()  # retrieves the exception, so that asyncio does not log it if no caller waits

    def invalidate_info(self) -> None:
        """Marks the info as expired, so that the next call of `info` refreshes it."""
        self._info_expires_at = -float("inf")

    async def serving(self, timeout_s: float) -> bool:
        """Whether the service reports SERVING through grpc.health.v1.

        The info expires if the service does not report it, or has not responded before.
        """
        stub = health_pb2_grpc.HealthStub(self.connection.channel)
        is_serving = False
        with contextlib.suppress(grpc.aio.AioRpcError):
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=self.service), timeout=timeout_s)
            is_serving = reply.status == health_pb2.HealthCheckResponse.SERVING
        if not is_serving or self._unresponsive:
            self.invalidate_info()  # a service that was restarted may have another checkpoint or other settings
        if is_serving:
            self._unresponsive = False  # lets `info` wait for a refresh again
        return is_serving

    async def reachable(self, timeout_s: float) -> bool:
        """Whether a connection becomes ready within `timeout_s` seconds."""
        channel = None
        try:
            async with asyncio.timeout(timeout_s):
                while channel is not self.connection.channel:
                    channel = self.connection.channel
                    with contextlib.suppress(grpc.aio.UsageError):  # the channel was replaced meanwhile
                        await channel.channel_ready()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Closes the channel and cancels the calls in progress."""
        if self._info_task is not None:
            self._info_task.cancel()
        await self.connection.close()

    def metadata(self, tried: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
        """Metadata of a call: request id, bearer token and trace if there are any, and `tried` if it is not empty.

        Args:
            tried: Ids of the replicas that have refused the request.
        """
        common = ((telemetry.REQUEST_ID_KEY, telemetry.request_id.get()), *self.connection.metadata())
        if caller := tracing.traceparent():
            common = (*common, (tracing.TRACEPARENT_KEY, caller))
        return (*common, (TRIED_KEY, ",".join(tried))) if tried else common

    def error(self, error: grpc.aio.AioRpcError) -> ServiceError:
        """ServiceError for a failed call. Its `param` is a field of the gRPC message."""
        mapped = from_rpc_error(error, self.name)
        if isinstance(mapped, Unauthenticated):  # a mistake in the gateway's settings, not in the request
            text = f"the {self.name} does not accept the bearer token of this gateway"
            self._refused_token.write(text)
            self.refuses_token = True
            self.invalidate_info()  # reading it tells whether the token is accepted again
            return Unauthenticated(text)
        if isinstance(mapped, Unavailable):  # the details contain certificates and addresses, so they are only logged
            self._unavailable.write(f"the {self.name} is unavailable: {error.details()}")
        if isinstance(mapped, (Unavailable, CheckpointMismatch)):
            self.invalidate_info()
        return mapped

    async def call(
        self,
        method: Callable[..., Awaitable[bytes]],
        request: Message,
        kind: type[M],
        timeout_s: float,
        tried: Sequence[str] = (),
    ) -> M:
        """Reply of type `kind` to a unary call; see `metadata` for `tried`.

        Raises:
            ServiceError: The call failed.
        """
        try:
            data = await method(request, timeout=timeout_s, metadata=self.metadata(tried))
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error
        return await self.read(kind, data)

    async def read(self, kind: type[M], data: bytes) -> M:
        """Message of type `kind`, parsed from `data`.

        Raises:
            InternalError: The message cannot be parsed, or is larger than any valid message.
        """
        try:
            return await parse_off_loop(kind, data)
        except ServiceError as error:
            log.error("the %s sent an invalid message: %s", self.name, error.message)
            raise InternalError(f"the {self.name} answered with a message that cannot be read") from None
