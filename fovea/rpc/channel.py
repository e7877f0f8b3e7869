"""Client side of a gRPC connection."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

from fovea.rpc.bearer_tokens import bearer, watch_token
from fovea.rpc.credential_files import CredentialFiles, CredentialsError
from fovea.rpc.tls import ClientTLS, client_credentials

__all__ = ["KEEPALIVE_TIMEOUT_S", "KEEPALIVE_TIME_S", "Access", "Connection", "connect", "message_options"]

KEEPALIVE_TIME_S: Final = 10
"""Seconds between pings on an idle connection."""
KEEPALIVE_TIMEOUT_S: Final = 10
"""Seconds to wait for the reply to a ping. If a link fails silently, its calls end after at most the sum of both."""

_CONNECT_TIMEOUT_S: Final = 5
_RENEW_AFTER_S: Final = 15.0  # minimum age of a replaced channel; leaves time for two connection attempts
_MAX_CALL_S: Final = 600.0

_SERVICE_CONFIG: Final = {
    "methodConfig": [
        {
            # The other methods are not retried here: gateway.core.retry retries them unless they must not run twice.
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
_CONNECTION_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # With gRPC's defaults it takes up to two minutes to reconnect to a restarted pod. The minimum backoff is also the
    # timeout of one connection attempt, and a handshake over a slow link takes seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", _CONNECT_TIMEOUT_S * 1000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A new pod has a new address, and by default a name is resolved at most once in 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # The server allows one ping in 5 s (fovea.rpc.server) and answers more frequent ones with GOAWAY.
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_S * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
    # By default a client stops pinging after two pings without data, and it sends no data while an answer streams.
    ("grpc.http2.max_pings_without_data", 0),
)


def message_options(max_message_bytes: int) -> list[tuple[str, Any]]:
    """Channel arguments for the size of messages, the same at both ends.

    gRPC's default limit of 4 MiB is less than 576 x 4096 values in float16. Compression is off, because gRPC inflates a
    whole message, by a factor of up to 1000, before it checks the size.

    Args:
        max_message_bytes: maximum size of a message in bytes, in either direction.
    """
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.compression_enabled_algorithms_bitset", 1 << grpc.Compression.NoCompression),
    ]


@dataclass(frozen=True)
class Access:
    """Credentials with which a client calls a service. The default has no TLS and no bearer token.

    Attributes:
        credentials: TLS credentials; None for no TLS.
        token: bearer token of the site; None for none.
        server_name: name in the server's certificate; empty if it is the name of the target.
    """

    credentials: CredentialFiles[grpc.ChannelCredentials] | None = None
    token: CredentialFiles[str] | None = None
    server_name: str = ""

    @classmethod
    def from_files(
        cls, *, ca: str = "", cert: str = "", key: str = "", server_name: str = "", token_file: str = ""
    ) -> Access:
        """Access with credentials from files, which are read again when they change.

        Args:
            ca, cert, key: PEM files, see `ClientTLS`; empty for none.
            server_name: name in the server's certificate; empty for that of the target.
            token_file: file with the site's bearer token, see fovea.rpc.bearer_tokens; empty for none.

        Raises:
            CredentialsError: a file cannot be used, or a file that another one needs is missing.
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
        """Metadata of every call: the bearer token, if there is one."""
        return () if self.token is None else (bearer(self.token.get()),)


def connect(
    target: str,
    *,
    max_message_bytes: int,
    credentials: grpc.ChannelCredentials | None = None,
    server_name: str = "",
) -> grpc.aio.Channel:
    """A channel with round-robin load balancing over all addresses of `target` and fast reconnection.

    Args:
        target: "host:port"; "dns:///name:port" for a headless Kubernetes service; "ipv4:a:port,b:port" for a list. See
            `fovea.rpc.addresses.check_target` for all forms.
        max_message_bytes: maximum size of a message in bytes, in either direction.
        credentials: TLS credentials; None for no TLS.
        server_name: name in the server's certificate; empty for that of `target`.
    """
    options = [*message_options(max_message_bytes), *_CONNECTION_OPTIONS]
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)


class Connection:
    """Channel that is replaced when its certificates change, or when it has not reached a server for a while.

    While the pods of a service load, its name has no addresses. gRPC resolves such a name less and less often, down to
    once in two minutes. A new channel resolves the name at once. Calls on the old channel continue.

    Args:
        target: address of the service, see `connect`.
        max_message_bytes: maximum size of a message in bytes, in either direction.
        access: TLS and bearer token.
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
        """Channel for the next call. Read the property for each call, because the channel may have been replaced."""
        credentials = self._access.credentials.get() if self._access.credentials else None
        if credentials is not self._credentials or self._has_lost_server():
            self._credentials = credentials
            task = asyncio.get_running_loop().create_task(self._channel.close(_MAX_CALL_S))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
            self._channel = self._connect()
        return self._channel

    @property
    def has_replicas(self) -> bool:
        """Whether the target may have several addresses, over which calls are spread."""
        scheme = self._target.partition(":")[0]
        return self._target.startswith("dns:///") or (scheme in ("ipv4", "ipv6") and "," in self._target)

    def _has_lost_server(self) -> bool:
        return (
            time.monotonic() - self._connected_at > _RENEW_AFTER_S
            and self._channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of every call: the bearer token, if there is one."""
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
        """Closes all channels and cancels the calls in progress."""
        retiring = list(self._retiring)
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        await self._channel.close()
