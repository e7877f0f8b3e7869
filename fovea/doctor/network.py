"""Checks of port, gateway and clock."""

from __future__ import annotations

import email.utils
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlsplit

import httpx

from fovea.client import AnswerError, Client
from fovea.doctor.finding import Finding, Level
from fovea.processes.readiness import readiness_checks, refused_default, refused_token, token_advice
from fovea.processes.stack import any_certificate, local_url
from fovea.rpc.server import split_address

__all__ = ["gateway", "port", "spoken_url"]

_TIMEOUT_S: Final = 5.0
_LOCAL_TIMEOUT_S: Final = 1.0
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
        return token_advice(refused)
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
