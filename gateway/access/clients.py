"""The client of a request: a key's name, or an address."""

from __future__ import annotations

from dataclasses import dataclass

from fovea.api_keys.key_lines import ApiKey, ClientLimits
from gateway.client_addresses import address_group

__all__ = ["Client", "client_at", "client_with"]


@dataclass(frozen=True)
class Client:
    """The client of a request.

    Attributes:
        name: Name of its key, or its address.
        tenant: Tenant whose caches it uses; empty for all clients without keys.
        limits: Its limits.
        has_key: Whether it was identified by a key.
    """

    name: str
    tenant: str
    limits: ClientLimits
    has_key: bool

    @property
    def id(self) -> str:
        """Name that no other client has: a key may have the name of an address."""
        return f"key:{self.name}" if self.has_key else f"address:{self.name}"


def client_with(key: ApiKey, defaults: ClientLimits) -> Client:
    """Client with a key, with `defaults` where the key has no limit of its own."""
    return Client(key.name, key.tenant, key.limits.or_else(defaults), has_key=True)


def client_at(address: str, defaults: ClientLimits) -> Client:
    """Client without a key: its IPv4 address, or the first 64 bits of its IPv6 address."""
    return Client(address_group(address), "", defaults, has_key=False)
