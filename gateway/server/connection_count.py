"""Count of open connections, in all and per client address."""

from __future__ import annotations

from collections import Counter

from gateway.client_addresses import address_group
from gateway.server.trusted_proxies import TrustedProxies

__all__ = ["ConnectionCount", "ConnectionSlot", "TooManyConnections"]


class TooManyConnections(Exception):
    """A connection beyond a limit. The text names the limit, not the client."""


class ConnectionSlot:
    """Place of one open connection in the count.

    Args:
        count: Count that the connection is part of.
        group: Name of the client; None for a trusted proxy.
    """

    def __init__(self, count: ConnectionCount, group: str | None) -> None:
        self._count: ConnectionCount | None = count
        self._group = group

    def leave(self) -> None:
        """Ends the connection's part in the count. Further calls do nothing."""
        if self._count is not None:
            self._count._leave(self._group)
            self._count = None


class ConnectionCount:
    """Limits on open connections.

    Args:
        most: Most connections in all.
        most_per_address: Most connections of one client: an IPv4 address, or the /64 of an IPv6 address.
        proxies: Proxies that are not limited by address, because they connect for many clients.
    """

    def __init__(self, most: int, most_per_address: int, proxies: TrustedProxies) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._proxies = proxies
        self._by_group: Counter[str] = Counter()
        self.num_open = 0

    def enter(self, host: str) -> ConnectionSlot:
        """A place for a new connection.

        Args:
            host: Address of the client.

        Raises:
            TooManyConnections: There are as many connections as accepted, in all or from this client.
        """
        if self.num_open >= self._most:
            raise TooManyConnections(f"--max-connections ({self._most}) are open")
        group = None if host in self._proxies else address_group(host)
        if group is not None:
            if self._by_group[group] >= self._most_per_address:
                raise TooManyConnections(f"one address has --max-connections-per-address ({self._most_per_address})")
            self._by_group[group] += 1
        self.num_open += 1
        return ConnectionSlot(self, group)

    def _leave(self, group: str | None) -> None:
        self.num_open -= 1
        if group is not None:
            self._by_group[group] -= 1
            if not self._by_group[group]:
                del self._by_group[group]
