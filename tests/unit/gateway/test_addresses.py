"""Which addresses media are fetched from: each range of IANA's registries, and each form that embeds an address."""

from __future__ import annotations

import ipaddress

import pytest

from gateway.media.addresses import is_public

# All ranges of both registries, the globally reachable ones too: no image is served from an anycast of AS112 or AMT.
RANGES = {
    "this network": "0.0.0.0/8",
    "private use of class A": "10.0.0.0/8",
    "shared address space": "100.64.0.0/10",
    "loopback": "127.0.0.0/8",
    "link local": "169.254.0.0/16",
    "private use of class B": "172.16.0.0/12",
    "IETF protocol assignments": "192.0.0.0/24",
    "documentation 1": "192.0.2.0/24",
    "AS112v4": "192.31.196.0/24",
    "AMT": "192.52.193.0/24",
    "6to4 relay anycast": "192.88.99.0/24",
    "private use of class C": "192.168.0.0/16",
    "AS112 direct delegation": "192.175.48.0/24",
    "benchmarking": "198.18.0.0/15",
    "documentation 2": "198.51.100.0/24",
    "documentation 3": "203.0.113.0/24",
    "multicast": "224.0.0.0/4",
    "reserved": "240.0.0.0/4",
    "limited broadcast": "255.255.255.255/32",
    "loopback of IPv6": "::1/128",
    "unspecified": "::/128",
    "IPv4-compatible (RFC 4291)": "::/96",
    "IPv4-mapped": "::ffff:0:0/96",
    "IPv4-translated (RFC 2765)": "::ffff:0:0:0/96",
    "NAT64": "64:ff9b::/96",
    "NAT64 of local use": "64:ff9b:1::/48",
    "discard only": "100::/64",
    "dummy prefix": "100:0:0:1::/64",
    "IETF protocol assignments of IPv6": "2001::/23",
    "Teredo": "2001::/32",
    "port control protocol anycast": "2001:1::1/128",
    "TURN anycast": "2001:1::2/128",
    "DNS-SD anycast": "2001:1::3/128",
    "benchmarking of IPv6": "2001:2::/48",
    "AMT of IPv6": "2001:3::/32",
    "AS112v6": "2001:4:112::/48",
    "ORCHID": "2001:10::/28",
    "ORCHIDv2": "2001:20::/28",
    "drone remote id": "2001:30::/28",
    "documentation of IPv6": "2001:db8::/32",
    "6to4": "2002::/16",
    "AS112 direct delegation of IPv6": "2620:4f:8000::/48",
    "documentation of IPv6, 2": "3fff::/20",
    "segment routing": "5f00::/16",
    "unique local": "fc00::/7",
    "link local of IPv6": "fe80::/10",
    "site local": "fec0::/10",
    "multicast of IPv6": "ff00::/8",
    "never assigned, low": "200::/7",
    "never assigned, high": "4000::/3",
}


@pytest.mark.parametrize("name", RANGES)
def test_no_address_of_a_special_range_is_public(name: str) -> None:
    network = ipaddress.ip_network(RANGES[name])
    step = max(network.num_addresses // 7, 1)
    for address in (network[0], network[-1], *(network[i] for i in range(0, network.num_addresses, step))):
        assert not is_public(str(address)), address


PRIVATE = ipaddress.IPv4Address("10.0.0.1")


@pytest.mark.parametrize(
    "address",
    [
        f"::{PRIVATE}",
        f"::ffff:{PRIVATE}",
        f"::ffff:0:{PRIVATE}",
        "::ffff:8.8.8.8",  # the resolver gives IPv4 addresses as such
        f"64:ff9b::{PRIVATE}",
        f"64:ff9b:1::{PRIVATE}",
        "2002:a00:1::1",
        "2001:0:808:808::f5ff:fffe",  # Teredo: the address of the client is inverted
        f"2606:4700::5efe:{PRIVATE}",  # ISATAP
        f"2606:4700::200:5efe:{PRIVATE}",
    ],
)
def test_an_address_that_embeds_another_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254"],
)
def test_metadata_services_of_clouds_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_the_zone_of_an_address_does_not_count() -> None:
    assert not is_public("fe80::1%eth0")
    assert is_public("2606:4700:4700::1111%eth0")


@pytest.mark.parametrize(
    "address",
    ["93.184.215.14", "8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0",
     "198.17.255.255", "198.20.0.0", "223.255.255.255", "168.63.129.15", "2606:4700:4700::1111", "2001:4860:4860::8888",
     "2001:200::1", "2000::1", "2003::1", "2a00:1450:4001::1", "3ffe::1"],
)  # fmt: skip
def test_other_addresses_are_public(address: str) -> None:
    assert is_public(address)
