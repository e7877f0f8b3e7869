"""Checks of what is reached over the network: port, Redis, gateway and clock."""

from __future__ import annotations

import email.utils
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx

from fovea.client import AnswerError, Client
from fovea.doctor.finding import Finding, Level
from fovea.processes.readiness import readiness_checks, refused_default, refused_token
from fovea.processes.stack import any_certificate, local_url
from fovea.rpc.server import split_address

__all__ = ["gateway", "port", "redis", "spoken_url"]

_TIMEOUT_S: Final = 5.0
_LOCAL_TIMEOUT_S: Final = 1.0
_REDIS_PORT: Final = 6379
_MAX_REPLY_BYTES: Final = 4096
_READINESS_HIDDEN: Final = (
    "whether it is ready is not known, because what answers there has no /readyz; ask the gateway itself"
)
_SKEW_S: Final = 5.0  # a header names whole seconds, and a response takes time


def spoken_url(url: str) -> str:
    """URL of a gateway with the scheme that it speaks: https where http has no answer and https has one.

    Args:
        url: URL of the gateway.
    """
    over_tls = f"https://{url.removeprefix('http://')}"
    is_other = url.startswith("http://") and _ready(url) is None and _ready(over_tls) is not None
    return over_tls if is_other else url


def port(address: str, gateway_url: str) -> Finding:
    """Whether an address can be listened on.

    Args:
        address: host:port that `fovea up` would take.
        gateway_url: URL of the gateway that is checked, which may be what has the address.
    """
    host, number = split_address(address)
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, number))
    except OSError as error:
        if urlsplit(gateway_url).port == number and _ready(gateway_url) is not None:
            return Finding("port", Level.OK, f"{address} is that of the gateway that runs")
        if there := _local_gateway(address):
            advice = f"fovea doctor --url {there} checks it"
            return Finding("port", Level.OK, f"{address} is that of a gateway that runs", advice)
        reason = (error.strerror or str(error)).lower()
        advice = "end the program that has it (ss -ltnp lists them), or choose another with --listen HOST:PORT"
        return Finding("port", Level.PROBLEM, f"cannot listen on {address}: {reason}", advice)
    return Finding("port", Level.OK, f"{address} is free")


def _local_gateway(address: str) -> str:
    """URL of the gateway that listens on host:port of this machine; empty if none does."""
    for tls in (False, True):
        url = local_url(address, tls=tls)
        response = _ready(url, _LOCAL_TIMEOUT_S)
        if response is not None and readiness_checks(response):
            return url
    return ""


def redis(url: str | None) -> Finding:
    """Whether a Redis answers.

    Args:
        url: redis:// or rediss:// URL; None for none. No finding shows its password.
    """
    if not url:
        return Finding("Redis", Level.OK, "none given; each gateway has caches in its memory", "")
    try:
        parts = urlsplit(url)
        host, number = parts.hostname or "", parts.port or _REDIS_PORT
    except ValueError:
        parts, host, number = urlsplit(""), "", 0
    if parts.scheme not in ("redis", "rediss") or not host:
        return Finding("Redis", Level.PROBLEM, "its URL is not accepted", "accepted: redis://HOST:PORT or rediss://")
    place = f"{host}:{number}"
    user, password = unquote(parts.username or "default"), unquote(parts.password or "")
    commands = [["AUTH", user, password]] * bool(password) + [["PING"]]
    try:
        replies = _redis_replies(host, number, parts.scheme == "rediss", commands)
    except ssl.SSLError as error:
        advice = "rediss:// needs a certificate that this machine trusts; the gateway takes --redis-tls-ca"
        return Finding("Redis", Level.PROBLEM, f"no TLS with {place}: {error.reason}", advice)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        advice = "start it, or leave --redis-url out; a gateway works without it, with caches of its own"
        return Finding("Redis", Level.PROBLEM, f"no connection to {place}: {reason.lower()}", advice)
    refused = next((reply for reply in replies if reply.startswith("-")), None)
    if refused is not None:
        advice = "password and user belong into the URL, or the password into --redis-password-file"
        return Finding("Redis", Level.PROBLEM, f"{place} refuses: {refused[1:200]}", advice)
    if replies[-1] != "+PONG":
        return Finding("Redis", Level.PROBLEM, f"{place} is no Redis", "check host and port of --redis-url")
    return Finding("Redis", Level.OK, f"{place} answers")


def _redis_replies(host: str, number: int, tls: bool, commands: list[list[str]]) -> list[str]:
    """First line of the reply to each command, in Redis's protocol; this package does not depend on the client."""
    with socket.create_connection((host, number), _TIMEOUT_S) as plain:
        connection = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if tls else plain
        with connection, connection.makefile("rb") as replies:
            lines = []
            for words in commands:
                encoded = [word.encode() for word in words]
                message = b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in encoded)
                connection.sendall(message)
                lines.append(replies.readline(_MAX_REPLY_BYTES).decode(errors="replace").strip())
            return lines


def gateway(url: str, api_key: str | None, *, now: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Whether a gateway answers, is ready and takes the API key; and this machine's clock, compared with the gateway's.

    Args:
        url: URL of the gateway.
        api_key: API key; None for none.
        now: function that returns this machine's time, in seconds since 1970.
    """
    response = _ready(url)
    if response is None:
        text = f"none answers at {httpx.URL(url).copy_with(userinfo=b'')}"
        yield Finding("gateway", Level.WARNING, text, "--url names another, and fovea up starts one")
        yield Finding("clock", Level.WARNING, "not compared, because no gateway answers")
        return
    if response.status_code == httpx.codes.NOT_FOUND:
        yield _access(url, api_key, is_ready=False)
    elif response.status_code != httpx.codes.OK:
        text = _message(response) or f"it answers with status {response.status_code}"
        yield Finding("gateway", Level.PROBLEM, text, _advice(response))
    else:
        yield _access(url, api_key, is_ready=True)
    yield _clock(response, now())


def _ready(url: str, timeout_s: float = _TIMEOUT_S) -> httpx.Response | None:
    try:
        return httpx.get(f"{url}/readyz", timeout=timeout_s, trust_env=False, verify=any_certificate())
    except httpx.HTTPError:
        return None


def _message(response: httpx.Response) -> str | None:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return None


def _advice(response: httpx.Response) -> str:
    """What to do about a gateway that is not ready."""
    checks = readiness_checks(response)
    if refused_default(checks):
        return "start the gateway with a setting that is accepted, or leave it out"
    if refused := refused_token(checks):
        return refused.partition("; ")[2]
    agreement = str(checks.get("fingerprints", ""))
    if not agreement.startswith("different"):
        return (
            "see the log of the service that the message names; if it runs, the gateway looks for it elsewhere:"
            " --encoder HOST:PORT or --llm HOST:PORT"
        )
    if "wire bases" in agreement:
        return "start encoder service and LLM service with the same --wire-basis"
    return "start gateway, encoder service and LLM service with the same --model and, if it is set, --text-tower"


def _access(url: str, api_key: str | None, *, is_ready: bool) -> Finding:
    """Whether a gateway takes the API key.

    Args:
        url: URL of the gateway.
        api_key: API key; None for none.
        is_ready: whether it has told that it is ready. A proxy in front may keep that to itself.
    """
    try:
        with Client(url, api_key=api_key or "", timeout_s=_TIMEOUT_S) as client:
            served = f"serves {', '.join(client.models())}"
        if is_ready:
            return Finding("gateway", Level.OK, f"ready, {served}")
        return Finding("gateway", Level.OK, served, _READINESS_HIDDEN)
    except AnswerError as error:
        advice = (
            "fovea keys add makes a key; give it as FOVEA_API_KEY" if error.status == httpx.codes.UNAUTHORIZED else ""
        )
        return Finding("gateway", Level.PROBLEM, str(error), advice)


def _clock(response: httpx.Response, now_s: float) -> Finding:
    try:
        there_s = email.utils.parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return Finding("clock", Level.WARNING, "not compared, because the gateway does not tell the time")
    skew_s = now_s - there_s
    if abs(skew_s) <= _SKEW_S:
        return Finding("clock", Level.OK, "as the gateway's")
    text = f"{abs(skew_s):,.0f} s {'ahead of' if skew_s > 0 else 'behind'} the gateway's"
    advice = "set both by NTP (timedatectl set-ntp true); certificates and logs go by the clock"
    return Finding("clock", Level.PROBLEM, text, advice)
