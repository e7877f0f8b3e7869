"""Check of a Redis: whether it lets a gateway in with the settings that the gateway has."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from fovea.doctor.finding import Finding, Level

__all__ = ["redis"]

_TIMEOUT_S: Final = 5.0
_PORT: Final = 6379
_MAX_REPLY_BYTES: Final = 4096
_MAX_PASSWORD_BYTES: Final = 4096
_SYSTEM_ROOTS: Final = ("", "system")
_REFUSED_ADVICE: Final = (
    "user and password belong into the URL, or the password alone into a file: --redis-password-file of the gateway,"
    " which is GATEWAY_REDIS_PASSWORD_FILE for fovea up"
)


def redis(url: str | None, *, password_file: str = "", tls_ca: str = "") -> Finding:
    """Whether a Redis answers. No finding shows its password.

    Args:
        url: redis:// or rediss:// URL; None for none.
        password_file: file with the password; empty for that of the URL.
        tls_ca: PEM file with the authority of its certificate, or the word system for those of this machine, which are
            also taken where this is empty.
    """
    if not url:
        return _finding(Level.OK, "none given; each gateway has caches in its memory")
    try:
        parts = urlsplit(url)
        host, number = parts.hostname or "", parts.port or _PORT
    except ValueError:
        parts, host, number = urlsplit(""), "", 0
    if parts.scheme not in ("redis", "rediss") or not host:
        return _finding(Level.PROBLEM, "its URL is not accepted", "accepted: redis://HOST:PORT or rediss://")
    place = f"{host}:{number}"
    user, password = unquote(parts.username or "default"), unquote(parts.password or "")
    try:
        password = _read_password(password_file) if password_file else password
    except OSError as error:
        text = f"its password cannot be read from {password_file}: {error.strerror}"
        return _finding(Level.PROBLEM, text, "see --redis-password-file (GATEWAY_REDIS_PASSWORD_FILE)")
    try:
        tls = _context(tls_ca) if parts.scheme == "rediss" else None
    except OSError as error:
        reason = "it is no PEM file" if isinstance(error, ssl.SSLError) else error.strerror
        text = f"the authority of its certificate cannot be read from {tls_ca}: {reason}"
        return _finding(Level.PROBLEM, text, "see --redis-tls-ca (GATEWAY_REDIS_TLS_CA)")
    commands = [["AUTH", user, password]] * bool(password) + [["PING"]]
    try:
        replies = _replies(host, number, tls, commands)
    except ssl.SSLError as error:
        advice = "rediss:// needs a certificate that this machine trusts, or --redis-tls-ca (GATEWAY_REDIS_TLS_CA)"
        return _finding(Level.PROBLEM, f"no TLS with {place}: {error.reason}", advice)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        advice = "start it, or leave --redis-url out; a gateway works without it, with caches of its own"
        return _finding(Level.PROBLEM, f"no connection to {place}: {reason.lower()}", advice)
    refused = next((reply for reply in replies if reply.startswith("-")), None)
    if refused is not None:
        return _finding(Level.PROBLEM, f"{place} refuses: {refused[1:200]}", _REFUSED_ADVICE)
    if replies[-1] != "+PONG":
        return _finding(Level.PROBLEM, f"{place} is no Redis", "check host and port of --redis-url")
    return _finding(Level.OK, f"{place} answers")


def _finding(level: Level, text: str, advice: str = "") -> Finding:
    return Finding("Redis", level, text, advice)


def _read_password(path: str) -> str:
    with Path(path).open("rb") as file:
        return file.read(_MAX_PASSWORD_BYTES).decode(errors="replace").strip("\r\n")


def _context(tls_ca: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=None if tls_ca in _SYSTEM_ROOTS else tls_ca)


def _replies(host: str, number: int, tls: ssl.SSLContext | None, commands: list[list[str]]) -> list[str]:
    """First line of the reply to each command, in Redis's protocol; this package does not depend on the client."""
    with socket.create_connection((host, number), _TIMEOUT_S) as plain:
        connection = tls.wrap_socket(plain, server_hostname=host) if tls else plain
        with connection, connection.makefile("rb") as replies:
            lines = []
            for words in commands:
                encoded = [word.encode() for word in words]
                message = b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in encoded)
                connection.sendall(message)
                lines.append(replies.readline(_MAX_REPLY_BYTES).decode(errors="replace").strip())
            return lines
