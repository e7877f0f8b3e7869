"""The client end of a gRPC leg."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

from fovea.rpc.bearer_tokens import bearer, watch_token
from fovea.rpc.file_watcher import CredentialsError, Watched
from fovea.rpc.tls import ClientTLS, client_credentials

__all__ = ["KEEPALIVE_TIMEOUT_S", "KEEPALIVE_TIME_S", "Access", "Connection", "connect", "message_options"]

KEEPALIVE_TIME_S: Final = 10
KEEPALIVE_TIMEOUT_S: Final = 10
"""A call on a link that is cut in silence ends after at most the two together."""

_CONNECT_TIMEOUT_S: Final = 5
_RENEW_S: Final = 15.0  # leaves time for two attempts to connect
_MAX_CALL_S: Final = 600.0


def message_options(max_message_bytes: int) -> list[tuple[str, Any]]:
    """gRPC's own cap of 4 MiB is below 576 x 4096 values in fp16, so both ends set theirs. Nothing is compressed: gRPC
    inflates a message whole before it looks at its size, a thousandfold."""
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.compression_enabled_algorithms_bitset", 1 << grpc.Compression.NoCompression),
    ]


@dataclass(frozen=True)
class Access:
    """What a client shows to a service, and what it asks of it; the default is neither.

    Attributes:
        credentials: TLS; None for none.
        token: The site's bearer token; None for none.
        server_name: Name that the server's certificate must bear, where it is not that of the target.
    """

    credentials: Watched[grpc.ChannelCredentials] | None = None
    token: Watched[str] | None = None
    server_name: str = ""

    @classmethod
    def from_files(
        cls, *, ca: str = "", cert: str = "", key: str = "", server_name: str = "", token_file: str = ""
    ) -> Access:
        """Access by files, read again when they change; see ClientTLS and fovea.rpc.bearer_tokens.

        Raises:
            CredentialsError: One cannot be used; or they do not go together.
        """
        if bool(cert) != bool(key):
            raise CredentialsError("a certificate and its key go together; one of them is missing")
        if not ca and (cert or server_name or token_file):
            raise CredentialsError(
                "a client's certificate, a server's name and a token need TLS: name the CA of the service,"
                " or the word system for the usual roots"
            )
        return cls(
            client_credentials(ClientTLS(ca, cert, key)) if ca else None,
            watch_token(token_file) if token_file else None,
            server_name,
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries to be let in."""
        return () if self.token is None else (bearer(self.token.get()),)


def connect(
    target: str,
    *,
    max_message_bytes: int,
    credentials: grpc.ChannelCredentials | None = None,
    server_name: str = "",
) -> grpc.aio.Channel:
    """A channel that spreads calls over all addresses of `target` and soon finds one that comes back.

    Args:
        target: "host:port"; "dns:///name:port" for a headless Kubernetes service; "ipv4:a:port,b:port" for a list.
        max_message_bytes: Cap on a message in either direction.
        credentials: TLS; None for none.
        server_name: Name that the server's certificate must bear; empty for that in `target`.
    """
    retry = {
        "methodConfig": [
            {
                # Answers are retried by gateway.retry, which knows what must not be done twice.
                "name": [
                    {"service": "fovea.v1.EncoderService", "method": "GetModelInfo"},
                    {"service": "fovea.v1.LLMService", "method": "GetModelInfo"},
                ],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.1},
        "loadBalancingConfig": [{"round_robin": {}}],
    }
    options = [
        *message_options(max_message_bytes),
        ("grpc.service_config", json.dumps(retry)),
        # Without these a pod that comes back is found only after up to two minutes. The "minimum" is also how long one
        # attempt to connect may take, and a handshake over a slow link takes seconds.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", _CONNECT_TIMEOUT_S * 1000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # A pod that replaces another has a new address, and by default a name is looked up once in 30 s at most.
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        # The server allows one ping in 5 s (fovea.rpc.server); below that it answers with GOAWAY.
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        # While an answer comes the client sends nothing, and by default it would stop to ping after two.
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)


class Connection:
    """A channel that is made anew when its certificates change, or when it is used and has found nobody for a while.

    gRPC asks ever less often, down to once in two minutes, for a name that has no address, as that of a service whose
    pods are all loading. A new channel asks at once. Calls on the old one may end.

    Args:
        target, max_message_bytes: As `connect`.
        access: TLS and token.
    """

    def __init__(self, target: str, *, max_message_bytes: int, access: Access) -> None:
        self._target = target
        self._max_message_bytes = max_message_bytes
        self._access = access
        self._credentials = access.credentials.get() if access.credentials else None
        self._channel = self._connect()
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel for the next call; not to be kept."""
        fresh = self._access.credentials.get() if self._access.credentials else None
        if fresh is not self._credentials or self._lost():
            self._credentials = fresh
            task = asyncio.get_running_loop().create_task(self._channel.close(_MAX_CALL_S))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
            self._channel = self._connect()
        return self._channel

    def _lost(self) -> bool:
        return (
            time.monotonic() - self._connected_at > _RENEW_S
            and self._channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries to be let in."""
        return self._access.metadata()

    def _connect(self) -> grpc.aio.Channel:
        self._connected_at = time.monotonic()
        return connect(
            self._target,
            max_message_bytes=self._max_message_bytes,
            credentials=self._credentials,
            server_name=self._access.server_name,
        )

    async def close(self) -> None:
        """Closes all channels; calls in progress are cancelled."""
        retiring = list(self._retiring)
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        await self._channel.close()
