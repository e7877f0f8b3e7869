"""Connections to Redis: address, password and TLS, for all that a gateway keeps there."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from fovea.rpc.credential_files import CredentialFiles, CredentialsError, pem_errors, read_text
from fovea.rpc.tls import SYSTEM_ROOTS
from gateway.cache.redis_replies import BoundedParser

__all__ = ["RedisAccess", "connection_pool", "reason_of"]

_DEFAULT_PORT: Final = 6379
_MAX_PASSWORD_CHARS: Final = 4096
_FORM: Final = "redis_url is not of the form redis://[[user]:password@]host[:port][/database], or rediss:// for TLS"


@dataclass(frozen=True)
class RedisAccess:
    """Address of a Redis, and what is needed to be let in.

    Attributes:
        url: redis:// or rediss:// URL; may have a user and a password.
        password_file: File with the password, read again when it changes; empty for that of the URL.
        tls_ca: PEM file with the CA of the server's certificate, read again when it changes, or `SYSTEM_ROOTS`; empty
            for the latter. For rediss:// only.
    """

    url: str = field(repr=False)
    password_file: str = ""
    tls_ca: str = ""


def connection_pool(
    access: RedisAccess, *, timeout_s: float, max_connections: int, max_reply_bytes: int
) -> BlockingConnectionPool:
    """A pool of connections, none of them open yet.

    A new connection presents the password and checks the certificate that the files hold then.

    Args:
        access: Address and credentials.
        timeout_s: Seconds for a free connection, for connecting, and for each reply.
        max_connections: Number of connections.
        max_reply_bytes: Bytes of all strings of a reply together.

    Raises:
        ValueError: The URL is not accepted, or does not fit the files. The text has no password.
        CredentialsError: A file cannot be used.
    """
    host, port, database, user, password, uses_tls = _read_url(access.url)
    if access.password_file and password:
        raise ValueError("the password of Redis is both in redis_url and in a file; give it in one of them")
    if access.tls_ca and not uses_tls:
        raise ValueError("a CA for Redis goes with a redis_url that begins with rediss://")
    options: dict[str, Any] = {}
    if uses_tls:
        options |= {"connection_class": _TLSConnection, "tls": _watch_tls(access.tls_ca or SYSTEM_ROOTS)}
    if access.password_file or password or user:
        watched = _watch_password(access.password_file) if access.password_file else None
        options["credential_provider"] = _Credentials(user, password, watched)
    return BlockingConnectionPool(
        host=host,
        port=port,
        db=database,
        protocol=2,
        parser_class=partial(BoundedParser, max_bytes=max_reply_bytes),
        max_connections=max_connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        **options,
    )


def reason_of(error: Exception) -> str:
    """Reason of a failure for the log: never a password, an address or a text of the server."""
    if isinstance(error, AuthenticationError):
        return "it does not accept the user or the password"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {cause.reason or type(cause).__name__}"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


class _TLSConnection(Connection):
    """Connection over TLS whose certificates are only those of `tls`; redis-py's own adds the system's roots."""

    def __init__(self, *, tls: CredentialFiles[ssl.SSLContext], **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls

    def _connection_arguments(self) -> dict[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._tls.get()}


class _Credentials(CredentialProvider):
    """User and password of each new connection."""

    def __init__(self, user: str, password: str, watched: CredentialFiles[str] | None) -> None:
        self._user = user
        self._password = password
        self._watched = watched

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._password if self._watched is None else self._watched.get()
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


def _read_url(url: str) -> tuple[str, int, int, str, str, bool]:
    """Host, port, database, user, password, and whether TLS is used."""
    try:
        parts = urlsplit(url)
        port = _DEFAULT_PORT if parts.port is None else parts.port
        database = int(parts.path.removeprefix("/") or "0")
        host = parts.hostname
    except ValueError:  # its text may quote the password
        raise ValueError(_FORM) from None
    is_wrong = parts.scheme not in ("redis", "rediss") or not host or database < 0
    if is_wrong or parts.query or parts.fragment:
        raise ValueError(_FORM)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return host or "", port, database, user, password, parts.scheme == "rediss"


def _watch_password(path: str) -> CredentialFiles[str]:
    def load() -> str:
        password = read_text(path).strip("\r\n")
        if not 1 <= len(password) <= _MAX_PASSWORD_CHARS or "\n" in password:
            raise CredentialsError(f"{path} does not hold one password of up to {_MAX_PASSWORD_CHARS:,} characters")
        return password

    return CredentialFiles([path], load)


def _watch_tls(ca: str) -> CredentialFiles[ssl.SSLContext]:
    def load() -> ssl.SSLContext:
        with pem_errors(f"CA {ca}"):
            return ssl.create_default_context(cafile=None if ca == SYSTEM_ROOTS else ca)

    return CredentialFiles([] if ca == SYSTEM_ROOTS else [ca], load)
