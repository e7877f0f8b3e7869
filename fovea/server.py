"""The server end of a gRPC leg: TLS, tokens, health, reflection, error mapping, request ids, metrics, draining.

A servicer's methods raise ServiceError and know nothing of status codes. Health answers NOT_SERVING until `ready` is
called and again while draining, so that balancers stop sending before the door closes.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from fovea import telemetry
from fovea.channel import message_options
from fovea.errors import Cancelled, InternalError, ServiceError, Unauthenticated, to_metadata
from fovea.tls import ServerTLS, server_credentials
from fovea.tokens import AUTHORIZATION, SiteTokens

__all__ = ["BindError", "GrpcServer", "split_address", "stop_signal"]

log = logging.getLogger(__name__)

# A message travels as a header, and a client refuses headers beyond 8 KiB.
_MAX_MESSAGE_CHARS = 1000


class BindError(RuntimeError):
    """The address to listen on is taken, or not one of this machine."""


def split_address(listen: str) -> tuple[str, int]:
    """ "0.0.0.0:9000" as ("0.0.0.0", 9000).

    Raises:
        ValueError: Not of the form host:port.
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{listen!r} is not of the form host:port")
    return host.strip("[]"), int(port)


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    event = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    return event


class _Boundary(grpc.aio.ServerInterceptor):
    """The one place where an exception becomes a status, is counted and, if it is a defect, logged."""

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith("/fovea."):
            return handler
        method = details.method.rsplit("/", 1)[1]
        rid = next((str(v) for k, v in details.invocation_metadata or () if k == telemetry.REQUEST_ID_KEY), "")
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                _guard_unary(method, rid, handler.unary_unary),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                _guard_stream(method, rid, handler.unary_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return handler


async def _fail(method: str, error: BaseException, context: grpc.aio.ServicerContext) -> None:
    if isinstance(error, asyncio.CancelledError):
        telemetry.REQUESTS.labels(method, Cancelled.code).inc()
        raise error
    if not isinstance(error, ServiceError):
        log.error("%s failed", method, exc_info=error)
        error = InternalError("the service failed on this request; its log tells why")
    telemetry.REQUESTS.labels(method, error.code).inc()
    message = error.message
    if len(message) > _MAX_MESSAGE_CHARS:
        message = message[:_MAX_MESSAGE_CHARS] + "..."
    await context.abort(error.grpc_status, message, to_metadata(error))


def _guard_unary(method: str, rid: str, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
        telemetry.request_id.set(rid or telemetry.new_request_id())
        start = time.perf_counter()
        try:
            response = await behaviour(request, context)
        except (Exception, asyncio.CancelledError) as error:
            await _fail(method, error, context)
            raise AssertionError("abort returns never") from error
        telemetry.REQUESTS.labels(method, "ok").inc()
        telemetry.REQUEST_LATENCY_SECONDS.labels(method).observe(time.perf_counter() - start)
        return response

    return call


def _guard_stream(method: str, rid: str, behaviour: Callable[[Any, Any], AsyncIterator[Any]]) -> Any:
    async def call(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        telemetry.request_id.set(rid or telemetry.new_request_id())
        start = time.perf_counter()
        try:
            async for response in behaviour(request, context):
                yield response
        except (Exception, asyncio.CancelledError) as error:
            await _fail(method, error, context)
        else:
            telemetry.REQUESTS.labels(method, "ok").inc()
            telemetry.REQUEST_LATENCY_SECONDS.labels(method).observe(time.perf_counter() - start)

    return call


class _RequireToken(grpc.aio.ServerInterceptor):
    """Lets nobody in without the token of a site, but for health, which says nothing of anybody."""

    def __init__(self, tokens: SiteTokens) -> None:
        self._tokens = tokens

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        if details.method.startswith(f"/{health.SERVICE_NAME}/"):
            return await continuation(details)
        sent = next((str(value) for key, value in details.invocation_metadata or () if key == AUTHORIZATION), "")
        if self._tokens.site_of(sent) is not None:
            return await continuation(details)

        async def refuse(requests: Any, context: grpc.aio.ServicerContext) -> None:
            error = Unauthenticated("no token of a site that is let in here; send authorization: Bearer TOKEN")
            await _fail("any", error, context)  # a name of the caller's choice is no label of a metric

        # As a handler of a stream, so that not even the request's message is read into memory.
        return grpc.stream_unary_rpc_method_handler(refuse)


class GrpcServer:
    """An aio server with everything but the services themselves.

    Args:
        listen: host:port; port 0 takes a free one (see `port`).
        services: Full names for health and reflection.
        max_message_bytes: Cap on a message in either direction.
        max_concurrent_rpcs: Calls beyond it are refused with RESOURCE_EXHAUSTED before any work.
        metrics_listen: host:port of the Prometheus endpoint; empty for none.
        tls: Certificate, key and the clients' CA; None for a server without TLS.
        token_file: Of the sites that are let in (fovea.tokens); empty to let in anybody. With it there is no
            reflection.
        max_connection_age_s: When clients are asked to connect anew; see `GrpcSettings`.

    Raises:
        BindError: Somebody listens there already.
        CredentialsError: A file of `tls`, or the one of tokens, cannot be used.
    """

    def __init__(
        self,
        listen: str,
        *,
        services: Sequence[str],
        max_message_bytes: int,
        max_concurrent_rpcs: int,
        metrics_listen: str = "",
        tls: ServerTLS | None = None,
        token_file: str = "",
        max_connection_age_s: float = 300.0,
    ) -> None:
        self._services = tuple(services)
        self._metrics_listen = metrics_listen
        self._health = health.aio.HealthServicer()
        credentials = server_credentials(tls) if tls else None
        tokens = [_RequireToken(SiteTokens(token_file))] if token_file else []
        self.grpc = grpc.aio.server(
            interceptors=[*tokens, _Boundary()],
            maximum_concurrent_rpcs=max_concurrent_rpcs,
            options=[
                *message_options(max_message_bytes),
                ("grpc.so_reuseport", 0),
                # Clients ping every 10 s (fovea.channel); gRPC's own minimum of 5 minutes would send them away.
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                # A client that is gone without a word must not hold a row until its deadline.
                ("grpc.keepalive_time_ms", 20_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.max_pings_without_data", 0),
                # Who connects and never finishes its handshake is soon let go.
                ("grpc.server_handshake_timeout_ms", 20_000),
                # Long-lived connections would never see a new replica. Calls under way keep theirs until their own
                # deadlines: an answer that was cut would have to be generated again, and be cut again.
                ("grpc.max_connection_age_ms", round(1000 * max_connection_age_s)),
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        if not token_file:
            names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self.grpc)
        elif tls is None:
            log.warning("tokens without TLS: who can read the connection can read them; this needs a proxy with TLS")
        host, port = split_address(listen)
        address = f"{host}:{port}" if ":" not in host else f"[{host}]:{port}"
        try:
            self.port = self.grpc.add_secure_port(address, credentials) if tls else self.grpc.add_insecure_port(address)
        except RuntimeError as error:
            raise BindError(f"cannot listen on {listen}: it is taken, or not an address of this machine") from error

    async def _report(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *self._services):
            await self._health.set(name, status)

    async def start(self) -> None:
        """Opens the door; health says NOT_SERVING until `ready`."""
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._metrics_listen:
            host, port = split_address(self._metrics_listen)
            try:
                start_http_server(port, addr=host)
            except OSError as error:
                raise BindError(
                    f"cannot listen on {self._metrics_listen}: it is taken, or not an address of this machine"
                ) from error
        await self.grpc.start()

    async def ready(self) -> None:
        """Health says SERVING from here on."""
        await self._report(health_pb2.HealthCheckResponse.SERVING)

    async def report_serving(self, serving: bool) -> None:
        """Health of the services says SERVING, or NOT_SERVING for a time in which new calls had better go elsewhere.

        Health of the server as a whole stays SERVING: an orchestrator that asks for it would end the process.
        """
        statuses = health_pb2.HealthCheckResponse
        for name in self._services:
            await self._health.set(name, statuses.SERVING if serving else statuses.NOT_SERVING)

    async def drain(self, grace_s: float) -> None:
        """Health says NOT_SERVING, new calls are refused, those under way get `grace_s` seconds."""
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(grace_s)
