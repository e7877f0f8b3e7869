"""NetworkPolicies allow the connections of the services, and no others."""

from __future__ import annotations

import re
from itertools import product

import pytest

from tests.unit.deploy.kubernetes.manifests import Manifests, load
from tests.unit.deploy.kubernetes.network import Peer, Port, allowed, pods

INTERNET, PRIVATE, NODE_LOCAL_DNS = Peer(address="1.1.1.1"), Peer(address="10.0.0.1"), Peer(address="169.254.20.10")
PROMETHEUS, CLUSTER_DNS, STRANGER = Peer(namespace="monitoring"), Peer(namespace="kube-system"), Peer(namespace="else")
HTTPS = Port(443)
DNS = (Port(53, protocol="UDP"), Port(53, protocol="TCP"))


def ports_of(manifests: Manifests, name: str) -> list[Port]:
    return [Port(one["containerPort"], one["name"]) for one in manifests.container(name)["ports"]]


def reached(manifests: Manifests, source: Peer) -> set[tuple[str, str]]:
    """Pods, and the names of their ports, that `source` can reach."""
    return {
        (name, port.name)
        for name, target in pods(manifests).items()
        for port in ports_of(manifests, name)
        if allowed(manifests, source, target, port)
    }


def test_only_the_gateway_calls_and_only_those_whose_addresses_it_has(
    manifests: Manifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: set[tuple[str, str]] = set()
    if "gateway" in manifests.ours:
        settings = manifests.settings("gateway", monkeypatch)
        targets = [settings.encoder, settings.llm, settings.redis_url.get_secret_value()]
        numbers = {int(number) for target in targets for number in re.findall(r":(\d+)", target)}
        expected = {
            (name, port.name)
            for name in manifests.of("Deployment")
            for port in ports_of(manifests, name)
            if port.number in numbers
        }
        assert {name for name, _ in expected} == {"encoder", "llm", "redis"}
    for name, source in pods(manifests).items():
        assert reached(manifests, source) == (expected if name == "gateway" else set())


def test_strangers_reach_the_front_alone(manifests: Manifests) -> None:
    front = {("gateway", "http")} if "gateway" in manifests.ours else {("llm", "grpc")}
    for stranger in (STRANGER, INTERNET, CLUSTER_DNS):
        assert reached(manifests, stranger) == front


def test_prometheus_reaches_what_it_is_told_to_scrape(manifests: Manifests) -> None:
    for name, target in pods(manifests).items():
        annotations = manifests.pods[name]["metadata"].get("annotations", {})
        for port in ports_of(manifests, name):
            if str(port.number) == annotations.get("prometheus.io/port"):
                assert allowed(manifests, PROMETHEUS, target, port)


def test_nothing_leaves_but_questions_about_names(manifests: Manifests) -> None:
    ends = (INTERNET, PRIVATE, NODE_LOCAL_DNS, CLUSTER_DNS, STRANGER, PROMETHEUS)
    asked = {(CLUSTER_DNS, port) for port in DNS} | {(NODE_LOCAL_DNS, port) for port in DNS}
    for name, source in pods(manifests).items():
        let = {
            (end, port) for end, port in product(ends, (*DNS, HTTPS, Port(80))) if allowed(manifests, source, end, port)
        }
        assert let == (asked if name == "gateway" else set())


def test_the_job_that_fetches_models_reaches_the_hub_and_nobody_reaches_it() -> None:
    together = Manifests(load("base").documents + load("models").documents)
    job = pods(together)["fetch-models"]
    assert allowed(together, job, INTERNET, HTTPS)
    assert not allowed(together, job, PRIVATE, HTTPS)
    assert all(allowed(together, job, CLUSTER_DNS, port) for port in DNS)
    services = {name: peer for name, peer in pods(together).items() if name != "fetch-models"}
    for name, peer in services.items():
        assert not allowed(together, peer, job, HTTPS)
        assert not any(allowed(together, job, peer, port) for port in ports_of(together, name))


def test_a_pod_that_nobody_thought_of_is_shut_off(manifests: Manifests) -> None:
    unknown = Peer({"app.kubernetes.io/name": "debug"})
    assert reached(manifests, unknown) == set()
    assert not allowed(manifests, unknown, INTERNET, HTTPS)
    assert not allowed(manifests, INTERNET, unknown, HTTPS)
