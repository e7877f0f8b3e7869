"""Count of open connections, in all and per client address, and which idle one gives its place to a new one."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from fovea import telemetry
from fovea.repeated_message import RepeatedMessage
from gateway.client_addresses import address_group
from gateway.server.trusted_proxies import TrustedProxies

__all__ = ["ConnectionCount", "ConnectionSlot", "TooManyConnections"]

log = logging.getLogger(__name__)

_LEAD: Final = 2
"""Connections that a client must have beyond those of the new one's client to lose one. Two clients with almost as many
would otherwise take each other's places in turn."""


class TooManyConnections(Exception):
    """A connection beyond a limit. The text names the limit, not the client."""


class _Client:
    """Connections of one client.

    Args:
        name: Name under which its connections are counted.
        is_proxy: The client is a trusted proxy.

    Attributes:
        num_open: Number of connections.
        idle: Connections without a request in progress, the oldest first, with the function that closes each.
    """

    def __init__(self, name: str, is_proxy: bool) -> None:
        self.name = name
        self.is_proxy = is_proxy
        self.num_open = 0
        self.idle: OrderedDict[ConnectionSlot, Callable[[], object]] = OrderedDict()


class ConnectionSlot:
    """Place of one open connection in the count. It is busy at first.

    Args:
        count: Count that the connection is part of.
        client: Client of the connection.
    """

    def __init__(self, count: ConnectionCount, client: _Client) -> None:
        self._count: ConnectionCount | None = count
        self._client = client

    def set_idle(self, close: Callable[[], object]) -> None:
        """Lets a new connection take this place. One that is idle already stays idle since then.

        Args:
            close: Function that closes the connection at once, without waiting for its client.
        """
        if self._count is not None:
            self._client.idle[self] = close

    def set_busy(self) -> None:
        """Keeps the place for a request in progress."""
        self._client.idle.pop(self, None)

    def leave(self) -> None:
        """Ends the connection's part in the count. Further calls do nothing."""
        if self._count is not None:
            self.set_busy()
            self._count._leave(self._client)
            self._count = None


class ConnectionCount:
    """Limits on open connections. Idle connections of clients that have many give their places to new ones.

    When all places are taken, a new connection takes the place of the oldest idle one of the client that has the most
    connections, among those that have an idle one. That client must have two more than the new one's client will have.
    Trusted proxies connect for many clients: their idle connections go last, and a new one of theirs counts against
    other clients as the first of a client. Where no connection can go, the new one is refused.

    The choice takes time in proportion to the number of clients, and only when all places are taken.

    Args:
        most: Most connections in all.
        most_per_address: Most connections of one client: an IPv4 address, or the /64 of an IPv6 address.
        proxies: Proxies that are not limited by address, because they connect for many clients.
    """

    def __init__(self, most: int, most_per_address: int, proxies: TrustedProxies) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._proxies = proxies
        self._clients: dict[str, _Client] = {}
        self._replaced = RepeatedMessage(log, logging.WARNING)
        self.num_open = 0

    def enter(self, host: str) -> ConnectionSlot:
        """A place for a new connection, which may have been that of an idle one.

        Args:
            host: Address of the client.

        Raises:
            TooManyConnections: There are as many connections as accepted, in all or from this client.
        """
        is_proxy = host in self._proxies
        name = host if is_proxy else address_group(host)
        client = self._clients.get(name) or _Client(name, is_proxy)
        if not is_proxy and client.num_open >= self._most_per_address:
            raise TooManyConnections(f"one address has --max-connections-per-address ({self._most_per_address})")
        if self.num_open >= self._most:
            self._make_place(client)
        self._clients[name] = client
        client.num_open += 1
        self.num_open += 1
        return ConnectionSlot(self, client)

    def _make_place(self, client: _Client) -> None:
        """Closes an idle connection for a new one of `client`."""
        full = f"--max-connections ({self._most}) are open"
        candidates = [other for other in self._clients.values() if other.idle and _may_replace(client, other)]
        if not candidates:
            raise TooManyConnections(full)
        chosen = max(candidates, key=lambda other: (not other.is_proxy, other.num_open))
        slot, close = next(iter(chosen.idle.items()))
        slot.leave()
        close()
        telemetry.count_failure(telemetry.FailureKind.CONNECTION_REPLACED)
        self._replaced.write(f"an idle connection was closed for a new one: {full}")

    def _leave(self, client: _Client) -> None:
        self.num_open -= 1
        client.num_open -= 1
        if not client.num_open:
            del self._clients[client.name]


def _may_replace(client: _Client, other: _Client) -> bool:
    """Whether a new connection of `client` may take the place of one of `other`."""
    num_after = 1 if client.is_proxy and not other.is_proxy else client.num_open + 1
    return other.num_open >= num_after + _LEAD
