"""What both legs share: channel, deadline, error mapping, health, and who is at the other end."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeVar

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fovea import telemetry
from fovea.channel import connect
from fovea.errors import CheckpointMismatch, ServiceError, Unavailable, from_rpc_error

__all__ = ["INFO_TIMEOUT_S", "INFO_TTL_S", "ServiceClient"]

INFO_TTL_S: Final = 5.0
INFO_TIMEOUT_S: Final = 3.0

InfoT = TypeVar("InfoT")


class ServiceClient(Generic[InfoT]):
    """What both legs share.

    Args:
        target: host:port, or dns:///name:port.
        max_message_bytes: Cap on a message in either direction.
        clock: Seconds that never go back.
    """

    name: str
    service: str

    def __init__(self, target: str, *, max_message_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.channel = connect(target, max_message_bytes=max_message_bytes)
        self._clock = clock
        self._info: InfoT | None = None
        self._info_until = -float("inf")

    async def fetch_info(self) -> InfoT:
        """Asks the service who it is."""
        raise NotImplementedError

    async def info(self) -> InfoT:
        """Who is at the other end: asked again after `INFO_TTL_S` and after a failed call.

        While the service is away the last known answer holds, so that what is cached can still be served.

        Raises:
            ServiceError: It has never answered.
        """
        if self._info is None or self._clock() >= self._info_until:
            try:
                self._info = await self.fetch_info()
                self._info_until = self._clock() + INFO_TTL_S
            except ServiceError:
                if self._info is None:
                    raise
                telemetry.FAILURES.labels("info").inc()
        return self._info

    def forget_info(self) -> None:
        """Makes the next `info` ask again."""
        self._info_until = -float("inf")

    async def serving(self, timeout_s: float) -> bool:
        """Whether the service says through grpc.health.v1 that it serves."""
        stub = health_pb2_grpc.HealthStub(self.channel)
        try:
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=self.service), timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Closes the channel; calls in progress are cancelled."""
        await self.channel.close()

    @staticmethod
    def metadata() -> tuple[tuple[str, str], ...]:
        """What every call carries: the request id."""
        return ((telemetry.REQUEST_ID_KEY, telemetry.request_id.get()),)

    def error(self, error: grpc.aio.AioRpcError) -> ServiceError:
        """The ServiceError behind a failed call."""
        mapped = from_rpc_error(error, self.name)
        if isinstance(mapped, (Unavailable, CheckpointMismatch)):
            self.forget_info()
        return mapped

    async def call(self, method: Callable[..., Awaitable[Any]], request: Any, timeout_s: float) -> Any:
        """One unary call.

        Raises:
            ServiceError: It failed.
        """
        try:
            return await method(request, timeout=timeout_s, metadata=self.metadata())
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error
