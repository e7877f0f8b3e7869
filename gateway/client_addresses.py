"""Addresses of clients, and the groups of addresses that count as one client."""

from __future__ import annotations

import functools
import ipaddress
from typing import Final

__all__ = ["Address", "address_group", "parse_address", "parse_network"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
"""An IP address."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_IPV6_CLIENT_BITS: Final = 64
"""Prefix of an IPv6 client: a subscriber has at least 2**64 addresses."""


def parse_address(text: str) -> Address:
    """The address of `text`. An IPv4-mapped IPv6 address, as a dual-stack socket reports it, is the IPv4 address.

    Raises:
        ValueError: `text` is no IP address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def parse_network(text: str) -> Network:
    """The network of an address or of ADDRESS/BITS.

    Raises:
        ValueError: `text` is neither, or the address has bits outside the network.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is neither an IP address nor a network such as 10.0.0.0/8: {error}") from None


@functools.lru_cache(maxsize=4096)
def address_group(host: str) -> str:
    """The name under which a client is counted: an IPv4 address, the /64 of an IPv6 address, or `host` itself if it is
    no address."""
    try:
        address = parse_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, _IPV6_CLIENT_BITS), strict=False))
