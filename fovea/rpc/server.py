"""The server end of a gRPC leg: TLS, tokens, health, reflection, draining; `boundary` has what happens to each call.

A servicer's methods raise ServiceError and know nothing of status codes. Health answers NOT_SERVING until `ready` is
called and again while draining, so that balancers stop sending before the door closes.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from fovea.errors import Unauthenticated
from fovea.rpc.bearer_tokens import AUTHORIZATION, SiteTokens
from fovea.rpc.boundary import ANY, Boundary, fail
from fovea.rpc.bytes_in_flight import BytesInFlight
from fovea.rpc.channel import message_options
from fovea.rpc.tls import ServerTLS, server_credentials

__all__ = ["BindError", "GrpcServer", "split_address", "stop_signal"]

log = logging.getLogger(__name__)


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
            await fail(ANY, error, context)

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
        token_file: Of the sites that are let in (fovea.rpc.bearer_tokens); empty to let in anybody. With it there is no
            reflection.
        max_connection_age_s: When clients are asked to connect anew; see `GrpcSettings`.
        max_bytes_in_flight: Memory of all requests together; see `GrpcSettings`.

    Attributes:
        in_flight: What counts that memory, for servicers that take more of it.

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
        max_bytes_in_flight: int = 2**30,
    ) -> None:
        self._services = tuple(services)
        self._metrics_listen = metrics_listen
        self._health = health.aio.HealthServicer()
        self.in_flight = BytesInFlight(max_bytes_in_flight)
        credentials = server_credentials(tls) if tls else None
        tokens = [_RequireToken(SiteTokens(token_file))] if token_file else []
        self.grpc = grpc.aio.server(
            interceptors=[*tokens, Boundary(self.in_flight)],
            maximum_concurrent_rpcs=max_concurrent_rpcs,
            options=[
                *message_options(max_message_bytes),
                ("grpc.so_reuseport", 0),
                # Clients ping every 10 s (fovea.rpc.channel); gRPC's own minimum of 5 minutes would send them away.
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
