"""Reverse proxies whose word about the client is believed."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Final

from starlette.types import Scope

from gateway.client_addresses import Address, parse_address, parse_network

__all__ = ["TrustedProxies"]

_MAX_FORWARDED: Final = 64
"""Most entries of X-Forwarded-For that are read, from the last one."""


class TrustedProxies:
    """Reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are believed.

    Args:
        networks: Addresses and networks of the proxies.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [parse_network(network) for network in networks]
        self._trusts = functools.lru_cache(maxsize=4096)(self._is_in_a_network)

    def _is_in_a_network(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def __contains__(self, host: str) -> bool:
        try:
            return bool(self._networks) and self._trusts(parse_address(host))
        except ValueError:
            return False

    def apply(self, scope: Scope) -> None:
        """Replaces client and scheme of a request that comes from a trusted proxy by what its headers say.

        The client is the last address in X-Forwarded-For that is no trusted proxy: each proxy appends the address that
        it sees, and everything before may be of the client's own making. An entry that is no address ends the search;
        the client is then the last proxy that was believed.
        """
        client = scope.get("client")
        if client is None or client[0] not in self:
            return
        forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        entries = b",".join(forwarded).decode("latin-1").rsplit(",", _MAX_FORWARDED)[-_MAX_FORWARDED:]
        for entry in reversed(entries):
            try:
                address = parse_address(_without_port(entry.strip()))
            except ValueError:
                break
            scope["client"] = (str(address), 0)
            if not self._trusts(address):
                break
        protos = [value.strip().lower() for name, value in scope["headers"] if name == b"x-forwarded-proto"]
        if protos and protos[-1] in (b"http", b"https"):
            scope["scheme"] = protos[-1].decode()


def _without_port(entry: str) -> str:
    """The address of 203.0.113.7:4711 or [2001:db8::7]:4711."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry
