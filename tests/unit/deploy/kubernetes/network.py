"""An evaluator of NetworkPolicies, as the API's documentation defines them.

A pod that a policy selects allows what one of its policies allows; any other pod allows everything. A connection must
be allowed at both ends.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any

from tests.unit.deploy.kubernetes.manifests import Manifests

__all__ = ["Peer", "Port", "allowed", "pods"]

Rule = dict[str, Any]


@dataclass(frozen=True)
class Port:
    number: int
    name: str = ""
    protocol: str = "TCP"


@dataclass(frozen=True)
class Peer:
    """A pod of the bundle (without a namespace), one of another namespace, or an address that is no pod."""

    labels: dict[str, str] = field(default_factory=dict, hash=False)
    namespace: str = ""
    address: str = ""


def pods(manifests: Manifests) -> dict[str, Peer]:
    return {name: Peer(template["metadata"]["labels"]) for name, template in manifests.pods.items()}


def allowed(manifests: Manifests, source: Peer, target: Peer, port: Port) -> bool:
    policies = list(manifests.of("NetworkPolicy").values())
    return _lets(policies, "egress", "to", source, target, port) and _lets(
        policies, "ingress", "from", target, source, port
    )


def _lets(policies: list[Rule], direction: str, peers: str, own: Peer, other: Peer, port: Port) -> bool:
    if own.namespace or own.address:
        return True  # policies of a namespace apply to its own pods
    ours = [
        policy["spec"]
        for policy in policies
        if direction.capitalize() in policy["spec"]["policyTypes"] and _has(own, policy["spec"]["podSelector"])
    ]
    rules = [rule for policy in ours for rule in policy.get(direction) or []]
    return not ours or any(_peer(rule.get(peers), other) and _port(rule.get("ports"), port) for rule in rules)


def _has(peer: Peer, selector: Rule) -> bool:
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= peer.labels.items()


def _peer(selectors: list[Rule] | None, peer: Peer) -> bool:
    return selectors is None or any(_matches(selector, peer) for selector in selectors)


def _matches(selector: Rule, peer: Peer) -> bool:
    if block := selector.get("ipBlock"):
        address = ipaddress.ip_address(peer.address) if peer.address else None
        return (
            address is not None
            and _within(address, block["cidr"])
            and not any(_within(address, one) for one in block.get("except", []))
        )
    if peer.address:
        return False
    namespaces = selector.get("namespaceSelector")
    if namespaces is None:
        return not peer.namespace and _has(peer, selector["podSelector"])
    return _has(Peer({"kubernetes.io/metadata.name": peer.namespace}), namespaces)


def _within(address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: str) -> bool:
    return address in ipaddress.ip_network(network)


def _port(ports: list[Rule] | None, port: Port) -> bool:
    return ports is None or any(
        one.get("protocol", "TCP") == port.protocol and one["port"] in (port.number, port.name) for one in ports
    )
