"""Addresses that servers listen on, and that clients call."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import unquote

__all__ = ["check_target", "is_loopback"]

_HOST_AND_PORT: Final = re.compile(r"(\[[^\[\]\s]+\]|[^\[\]\s/:,@?#]+):([0-9]{1,5})")
_DNS: Final = re.compile(r"dns:(//[^/]*/)?")
_IP_VERSIONS: Final = {"ipv4": 4, "ipv6": 6}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. Names other than localhost may stand for any address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_target(target: str) -> None:
    """Checks the form of an address that a gRPC client calls.

    gRPC takes a target of another form for a name, and tries to resolve it for as long as the client runs.

    Args:
        target: address as in `fovea.rpc.channel.connect`.

    Raises:
        ValueError: `target` has none of the accepted forms.
    """
    scheme, _, rest = target.partition(":")
    if scheme in _IP_VERSIONS:
        parts = [part for part in unquote(rest.removeprefix("///")).split(",") if part]
        accepted = bool(parts) and all(_ip_version(_host(part)) == _IP_VERSIONS[scheme] for part in parts)
    elif scheme == "unix":
        accepted = bool(rest)
    else:
        host = _host(_DNS.sub("", target, count=1))
        accepted = bool(host) and (not host.startswith("[") or _ip_version(host) == _IP_VERSIONS["ipv6"])
    if not accepted:
        raise ValueError(
            f"{target!r:.80} is not accepted; accepted: host:port, dns:///name:port, unix:path, and for several"
            " addresses ipv4:10.0.0.1:50051,10.0.0.2:50051 or ipv6:[fd00::1]:50051,[fd00::2]:50051"
        )


def _host(text: str) -> str:
    """Host of "host:port" with its brackets; empty if the text has another form or no port that can be called."""
    match = _HOST_AND_PORT.fullmatch(text)
    return match[1] if match and 0 < int(match[2]) < 2**16 else ""


def _ip_version(host: str) -> int | None:
    """4 for an IPv4 address, 6 for an IPv6 address in brackets, None for any other host."""
    in_brackets = host.startswith("[")
    try:
        version = ipaddress.ip_address(host[1:-1] if in_brackets else host).version
    except ValueError:
        return None
    return version if in_brackets == (version == _IP_VERSIONS["ipv6"]) else None
