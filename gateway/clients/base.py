"""What both legs share: channel, deadline, error mapping, health, and who is at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fovea import telemetry
from fovea.errors import (
    CheckpointMismatch,
    InternalError,
    ServiceError,
    Unauthenticated,
    Unavailable,
    from_rpc_error,
)
from fovea.rpc.channel import Access, Connection
from fovea.rpc.messages import receive

__all__ = ["INFO_RETRY_S", "INFO_TIMEOUT_S", "INFO_TTL_S", "ServiceClient"]

log = logging.getLogger(__name__)

INFO_TTL_S: Final = 5.0
INFO_RETRY_S: Final = 1.0
INFO_TIMEOUT_S: Final = 3.0
_INFO_WAIT_S: Final = 0.2

# Services speak of the fields of their messages, clients of the gateway of the fields of their requests.
_REST_NAMES: Final = {
    "text_ids": "question",
    "input_ids": "question",
    "images": "image",
    "visual_tokens": "image",
    "videos": "video",
    "cross_attention": "maps",
    "cross_attention.layer": "cross_attention_layer",
}

InfoT = TypeVar("InfoT")
M = TypeVar("M", bound=Message)


class ServiceClient(Generic[InfoT]):
    """What both legs share.

    Args:
        target: host:port, or dns:///name:port.
        max_message_bytes: Cap on a message in either direction.
        access: TLS and token; None for neither.
        clock: Seconds that never go back.
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
    ) -> None:
        self.connection = Connection(target, max_message_bytes=max_message_bytes, access=access or Access())
        self._clock = clock
        self._info: InfoT | None = None
        self._info_until = -float("inf")
        self._asking: asyncio.Task[InfoT] | None = None
        self._silent = False

    async def fetch_info(self) -> InfoT:
        """Asks the service who it is."""
        raise NotImplementedError

    async def info(self) -> InfoT:
        """Who is at the other end: asked again after `INFO_TTL_S`, and after a call that found it away or replaced.

        All callers share one question to the service. One that answers does so in milliseconds, and is waited for;
        while it is away or hangs the last known answer holds, at once, so that what is cached can still be served.

        Raises:
            ServiceError: It has never answered.
        """
        if self._info is not None and self._clock() < self._info_until:
            return self._info
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(self._asked)
        asking = self._asking
        if self._info is None:
            return await asyncio.shield(asking)
        if not self._silent:
            answered, _ = await asyncio.wait([asking], timeout=_INFO_WAIT_S)
            self._silent = self._silent or not answered
        return self._info

    async def _ask(self) -> InfoT:
        try:
            self._info = await self.fetch_info()
        except ServiceError:
            self._info_until, self._silent = self._clock() + INFO_RETRY_S, True
            if self._info is not None:
                telemetry.FAILURES.labels("info").inc()
            raise
        self._info_until, self._silent = self._clock() + INFO_TTL_S, False
        return self._info

    def _asked(self, asking: asyncio.Task[InfoT]) -> None:
        self._asking = None
        if not asking.cancelled():
            asking.exception()  # seen, even if nobody waits for it

    def invalidate_info(self) -> None:
        """Makes the next `info` ask again."""
        self._info_until = -float("inf")

    async def serving(self, timeout_s: float) -> bool:
        """Whether the service says through grpc.health.v1 that it serves."""
        stub = health_pb2_grpc.HealthStub(self.connection.channel)
        try:
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=self.service), timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def reachable(self, timeout_s: float) -> bool:
        """Waits until a connection stands; False if none does within `timeout_s`."""
        channel = None
        try:
            async with asyncio.timeout(timeout_s):
                while channel is not self.connection.channel:
                    channel = self.connection.channel
                    with contextlib.suppress(grpc.aio.UsageError):  # it has been replaced meanwhile
                        await channel.channel_ready()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Closes the channel; calls in progress are cancelled."""
        if self._asking is not None:
            self._asking.cancel()
        await self.connection.close()

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries: the request id, and the token if there is one."""
        return ((telemetry.REQUEST_ID_KEY, telemetry.request_id.get()), *self.connection.metadata())

    def error(self, error: grpc.aio.AioRpcError) -> ServiceError:
        """The ServiceError behind a failed call, its `param` as clients of the gateway call it."""
        mapped = from_rpc_error(error, self.name)
        if isinstance(mapped, Unauthenticated):  # the gateway's own affair, of which its client can mend nothing
            log.error("the %s does not accept the token of this gateway", self.name)
            return Unauthenticated(f"the {self.name} does not accept the token of this gateway")
        if isinstance(mapped, Unavailable):  # names certificates that do not fit, and addresses: for the log alone
            log.warning("the %s is away: %s", self.name, error.details())
        if mapped.param is not None:
            field = mapped.param if mapped.param in _REST_NAMES else mapped.param.split(".")[0]
            mapped.param = _REST_NAMES.get(field, mapped.param)
        if isinstance(mapped, (Unavailable, CheckpointMismatch)):
            self.invalidate_info()
        return mapped

    async def call(
        self, method: Callable[..., Awaitable[bytes]], request: Message, kind: type[M], timeout_s: float
    ) -> M:
        """The reply, of type `kind`, to one unary call.

        Raises:
            ServiceError: It failed.
        """
        try:
            data = await method(request, timeout=timeout_s, metadata=self.metadata())
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error
        return await self.read(kind, data)

    async def read(self, kind: type[M], data: bytes) -> M:
        """A message that the service has sent.

        Raises:
            InternalError: It cannot be read, or is larger than any that is right.
        """
        try:
            return await receive(kind, data)
        except ServiceError as error:
            log.error("the %s sent a message that is refused: %s", self.name, error.message)
            raise InternalError(f"the {self.name} answered with a message that cannot be read") from None
