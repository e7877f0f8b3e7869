"""Check of Redis: whether it accepts the settings of a gateway."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from fovea.doctor.finding import Finding, Level

__all__ = ["redis"]

_TIMEOUT_S: Final = 5.0
_DEFAULT_PORT: Final = 6379
_MAX_REPLY_BYTES: Final = 4096
_MAX_PASSWORD_BYTES: Final = 4096
_SYSTEM_AUTHORITIES: Final = ("", "system")
_REFUSED_ADVICE: Final = (
    "user and password belong into the URL, or the password alone into a file: --redis-password-file of the gateway,"
    " which is GATEWAY_REDIS_PASSWORD_FILE for fovea up"
)


def redis(url: str | None, *, password_file: str = "", tls_ca: str = "") -> Finding:
    """Whether a Redis answers. No finding shows its password.

    Args:
        url: redis:// or rediss:// URL; None if no Redis is used.
        password_file: file with the password; empty for the password of the URL.
        tls_ca: PEM file of the certificate authority; empty or `system` for the authorities of this machine.
    """
    if not url:
        return _finding(Level.OK, "none given; each gateway has caches in its memory")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _DEFAULT_PORT
    except ValueError:
        parts, host, port = urlsplit(""), "", 0
    if parts.scheme not in ("redis", "rediss") or not host:
        return _finding(Level.PROBLEM, "its URL is not accepted", "accepted: redis://HOST:PORT or rediss://")
    address = f"{host}:{port}"
    user, password = unquote(parts.username or "default"), unquote(parts.password or "")
    try:
        password = _read_password(password_file) if password_file else password
    except OSError as error:
        text = f"its password cannot be read from {password_file}: {error.strerror}"
        return _finding(Level.PROBLEM, text, "see --redis-password-file (GATEWAY_REDIS_PASSWORD_FILE)")
    try:
        tls = _tls_context(tls_ca) if parts.scheme == "rediss" else None
    except OSError as error:
        reason = "it is no PEM file" if isinstance(error, ssl.SSLError) else error.strerror
        text = f"the authority of its certificate cannot be read from {tls_ca}: {reason}"
        return _finding(Level.PROBLEM, text, "see --redis-tls-ca (GATEWAY_REDIS_TLS_CA)")
    commands = [["AUTH", user, password]] * bool(password) + [["PING"]]
    try:
        replies = _replies(host, port, tls, commands)
    except ssl.SSLError as error:
        advice = "rediss:// needs a certificate that this machine trusts, or --redis-tls-ca (GATEWAY_REDIS_TLS_CA)"
        return _finding(Level.PROBLEM, f"no TLS with {address}: {error.reason}", advice)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        advice = "start it, or leave --redis-url out; a gateway works without it, with caches of its own"
        return _finding(Level.PROBLEM, f"no connection to {address}: {reason.lower()}", advice)
    refused = next((reply for reply in replies if reply.startswith("-")), None)
    if refused is not None:
        return _finding(Level.PROBLEM, f"{address} refuses: {refused[1:200]}", _REFUSED_ADVICE)
    if replies[-1] != "+PONG":
        return _finding(Level.PROBLEM, f"{address} is no Redis", "check host and port of --redis-url")
    return _finding(Level.OK, f"{address} answers")


def _finding(level: Level, text: str, advice: str = "") -> Finding:
    return Finding("Redis", level, text, advice)


def _read_password(path: str) -> str:
    with Path(path).open("rb") as file:
        return file.read(_MAX_PASSWORD_BYTES).decode(errors="replace").strip("\r\n")


def _tls_context(tls_ca: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=None if tls_ca in _SYSTEM_AUTHORITIES else tls_ca)


def _replies(host: str, port: int, tls: ssl.SSLContext | None, commands: list[list[str]]) -> list[str]:
    """First line of the reply to each command, in Redis's protocol; this package does not depend on redis-py."""
    with socket.create_connection((host, port), _TIMEOUT_S) as plain:
        connection = tls.wrap_socket(plain, server_hostname=host) if tls else plain
        with connection, connection.makefile("rb") as replies:
            lines = []
            for words in commands:
                encoded = [word.encode() for word in words]
                message = b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in encoded)
                connection.sendall(message)
                lines.append(replies.readline(_MAX_REPLY_BYTES).decode(errors="replace").strip())
            return lines
