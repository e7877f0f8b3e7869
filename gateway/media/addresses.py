"""Which IP addresses are on the public internet, by IANA's registries of special-purpose addresses.

https://www.iana.org/assignments/iana-ipv4-special-registry and .../iana-ipv6-special-registry. The standard library's
`is_global` is not used: it differs between versions of Python, and is true of some addresses that embed another one.
"""

from __future__ import annotations

import ipaddress
from typing import Final

__all__ = ["is_public"]

_NOT_PUBLIC_IPV4: Final = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private use
            "100.64.0.0/10",  # shared address space, also of cloud metadata services
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # platform services of Azure, which every virtual machine there reaches
            "169.254.0.0/16",  # link local, also of cloud metadata services
            "172.16.0.0/12",  # private use
            "192.0.0.0/24",  # IETF protocol assignments
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private use
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarking
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and limited broadcast
        ),
    )
)

_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""All that IANA assigns from. Outside it are, among others, loopback, unique and link local, multicast, and forms that
embed an IPv4 address: IPv4-compatible, IPv4-mapped, IPv4-translated, and NAT64 with its two well-known prefixes."""

_NOT_PUBLIC_IPV6: Final = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # IETF protocol assignments: Teredo, which embeds an IPv4 address, benchmarking, ORCHID, ...
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which embeds an IPv4 address
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)

_ISATAP: Final = 0x0000_5EFE
_ISATAP_MASK: Final = 0xFDFF_FFFF  # without the bit that tells a unique address
"""First half of the interface identifier of ISATAP (RFC 5214), whose second half is an IPv4 address."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet that embeds no other address.

    An address of NAT64 with a network's own prefix cannot be told from others.

    Args:
        address: Address in text, an IPv6 address with or without a zone.

    Raises:
        ValueError: The text is no IP address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _NOT_PUBLIC_IPV4)
    if ip not in _GLOBAL_UNICAST or (int(ip) >> 32) & _ISATAP_MASK == _ISATAP:
        return False
    return not any(ip in network for network in _NOT_PUBLIC_IPV6)
