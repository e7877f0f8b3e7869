"""The server end of a gRPC leg: address, TLS, health, reflection, draining. `interceptors` handles each call.

A servicer's methods raise ServiceError and set no status codes. Health answers NOT_SERVING until `ready` is called,
and again while draining, so that load balancers stop sending calls before the server refuses them.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from fovea.metrics_endpoint import MetricsEndpoint
from fovea.rpc.addresses import is_loopback
from fovea.rpc.bearer_tokens import SiteTokens
from fovea.rpc.bytes_in_flight import BytesInFlight
from fovea.rpc.channel import message_options
from fovea.rpc.interceptors import CallInterceptor, TokenInterceptor
from fovea.rpc.tls import ServerTLS, server_credentials

__all__ = ["BindError", "GrpcServer", "ServerConfig", "split_address"]

log = logging.getLogger(__name__)


class BindError(RuntimeError):
    """An address to listen on that is taken, or that is not one of this machine."""

    @classmethod
    def at(cls, listen: str) -> BindError:
        """The error for the address `listen`."""
        return cls(f"cannot listen on {listen}: it is taken, or not an address of this machine")

    @classmethod
    def of_metrics(cls, listen: str, env_prefix: str) -> BindError:
        """The error for the address `listen` of the metrics.

        Args:
            listen: address as host:port.
            env_prefix: prefix of the service's variables.
        """
        return cls(
            f"{cls.at(listen)}; choose another for the metrics with --metrics-listen ({env_prefix}METRICS_LISTEN)"
        )


def split_address(listen: str) -> tuple[str, int]:
    """Host and port of "host:port": "0.0.0.0:9000" gives ("0.0.0.0", 9000).

    Raises:
        ValueError: `listen` is not of the form host:port.
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{listen!r} is not of the form host:port")
    return host.strip("[]"), int(port)


@dataclass(frozen=True)
class ServerConfig:
    """Configuration of a gRPC server, whichever services it has.

    Attributes:
        listen: host:port; port 0 takes a free one (see `GrpcServer.port`).
        max_message_bytes: most bytes of a message in either direction.
        max_concurrent_rpcs: most calls in progress; further ones are refused with RESOURCE_EXHAUSTED before any work.
        metrics_listen: host:port of the Prometheus endpoint; empty for none.
        env_prefix: prefix of the service's variables, for errors that name one.
        tls: certificate, key and the clients' CA; None for a server without TLS.
        token_file: file with the bearer tokens of the accepted sites (fovea.rpc.bearer_tokens); empty to accept every
            caller.
        reflection: whether the server describes its services to tools such as grpcurl.
        max_connection_age_s: seconds after which a client is asked to connect anew; see `GrpcSettings`.
        max_bytes_in_flight: bytes of memory for all requests together; see `GrpcSettings`.
    """

    listen: str
    max_message_bytes: int
    max_concurrent_rpcs: int
    metrics_listen: str = ""
    env_prefix: str = ""
    tls: ServerTLS | None = None
    token_file: str = ""
    reflection: bool = False
    max_connection_age_s: float = 300.0
    max_bytes_in_flight: int = 2**30

    @classmethod
    def from_settings(cls, settings: object) -> ServerConfig:
        """Configuration from a service's settings, which have every attribute under the same name."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})


class GrpcServer:
    """An asyncio gRPC server, complete except for the services themselves.

    Args:
        config: addresses, limits, TLS and tokens.
        services: full names of the services, for health and reflection.

    Attributes:
        grpc: server to add the servicers to.
        port: port that the server listens on.
        in_flight: count of the bytes of all requests, for servicers that take more memory per request.

    Raises:
        BindError: the address is taken, or not one of this machine.
        CredentialsError: a TLS file or the token file cannot be used.
    """

    def __init__(self, config: ServerConfig, *, services: Sequence[str]) -> None:
        self._services = tuple(services)
        self._metrics_listen, self._env_prefix = config.metrics_listen, config.env_prefix
        self._health = health.aio.HealthServicer()
        self.in_flight = BytesInFlight(config.max_bytes_in_flight)
        credentials = server_credentials(config.tls) if config.tls else None
        tokens = [TokenInterceptor(SiteTokens(config.token_file))] if config.token_file else []
        self.grpc = grpc.aio.server(
            interceptors=[*tokens, CallInterceptor(self.in_flight, replica=secrets.token_hex(8))],
            maximum_concurrent_rpcs=config.max_concurrent_rpcs,
            options=_server_options(config),
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        if config.reflection:
            names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self.grpc)
        if (open_to := _open_to(config)) is not None:
            log.warning(open_to)
        self.port = self._bind(config.listen, credentials)

    def _bind(self, listen: str, credentials: grpc.ServerCredentials | None) -> int:
        host, port = split_address(listen)
        address = f"{host}:{port}" if ":" not in host else f"[{host}]:{port}"
        try:
            if credentials is None:
                return int(self.grpc.add_insecure_port(address))
            return int(self.grpc.add_secure_port(address, credentials))
        except RuntimeError as error:
            raise BindError.at(listen) from error

    async def _report(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *self._services):
            await self._health.set(name, status)

    async def start(self) -> None:
        """Starts to listen; health answers NOT_SERVING until `ready`.

        Raises:
            BindError: the address of the metrics is taken, or not one of this machine.
        """
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._metrics_listen:
            host, port = split_address(self._metrics_listen)
            try:
                MetricsEndpoint(host, port)
            except OSError as error:
                raise BindError.of_metrics(self._metrics_listen, self._env_prefix) from error
        await self.grpc.start()

    async def ready(self) -> None:
        """Sets health to SERVING."""
        await self._report(health_pb2.HealthCheckResponse.SERVING)

    async def report_serving(self, serving: bool) -> None:
        """Sets health of the services to SERVING, or to NOT_SERVING while new calls should go elsewhere.

        Health of the server as a whole stays SERVING: an orchestrator that asks for it would end the process.
        """
        statuses = health_pb2.HealthCheckResponse
        for name in self._services:
            await self._health.set(name, statuses.SERVING if serving else statuses.NOT_SERVING)

    async def drain(self, grace_s: float) -> None:
        """Sets health to NOT_SERVING, refuses new calls and gives those in progress `grace_s` seconds."""
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(grace_s)


def _open_to(config: ServerConfig) -> str | None:
    """Warning about callers that a server lets in, or that can read along; None for a server that is closed to them."""
    if config.token_file and config.tls is None:
        return "tokens without TLS can be read on the connection; put a proxy with TLS in front of this server"
    if is_loopback(split_address(config.listen)[0]) or config.token_file or (config.tls and config.tls.client_ca):
        return None
    if config.tls:
        return f"everyone who reaches {config.listen} may call this service; set --token-file or --tls-client-ca"
    return (
        f"everyone who reaches {config.listen} may call this service and read what is sent; set --tls-cert, --tls-key"
        " and --token-file, or let it --listen on 127.0.0.1"
    )


def _server_options(config: ServerConfig) -> list[tuple[str, Any]]:
    """Channel arguments of the server."""
    return [
        *message_options(config.max_message_bytes),
        ("grpc.so_reuseport", 0),
        # Clients ping every 10 s (fovea.rpc.channel); gRPC's own minimum of 5 minutes would close their connections.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        # A client that disappears without closing its connection must not hold a sequence until its deadline.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        # A connection that never finishes its handshake is closed soon.
        ("grpc.server_handshake_timeout_ms", 20_000),
        # Long-lived connections would never reach a new replica. Calls in progress keep their connection until their
        # own deadlines: an answer that was cut off would have to be generated again, and would be cut off again.
        ("grpc.max_connection_age_ms", round(1000 * config.max_connection_age_s)),
    ]
