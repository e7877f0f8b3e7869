"""What deploy/kustomize says of the pods is what the images need: each pod runs here as its manifest says."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fovea.api_keys.key_lines import new_key
from tests.images.engine import TAG, image
from tests.images.gateway import MOON, Gateway
from tests.images.pods import Pod, running
from tests.unit.deploy.kubernetes.manifests import SERVICES, Manifests, load
from tests.waiting import wait_until

ORDER = ("redis", "encoder", "llm", "gateway")


@pytest.fixture(scope="module")
def manifests() -> Manifests:
    """The overlay `cpu` as kustomize renders it, or the base where kustomize is not installed."""
    return load("cpu" if shutil.which("kubectl") or shutil.which("kustomize") else "base")


@pytest.fixture(scope="module")
def key(manifests: Manifests) -> str:
    """An API key, whose digest is added to the manifests' Secret."""
    key, entry = new_key("alice")
    (secret,) = [one for name, one in manifests.of("Secret").items() if name.startswith("gateway-keys")]
    keys = base64.b64decode(secret["data"]["keys"]) + f"{entry.line}\n".encode()
    secret["data"]["keys"] = base64.b64encode(keys).decode()
    return key


@pytest.fixture(scope="module")
def pods(manifests: Manifests, key: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pod]]:
    redis = os.environ["REDIS_IMAGE"]
    with running(manifests, list(ORDER), tmp_path_factory.mktemp("secrets"), redis) as started:
        yield started


@pytest.mark.parametrize("name", ORDER)
def test_a_pod_passes_its_probes(pods: dict[str, Pod], name: str) -> None:
    pod = pods[name]
    for probe in pod.probes:
        wait_until(lambda probe=probe: pod.passes(probe), 120, lambda: pod.container.log()[-3000:])  # type: ignore[misc]


def test_a_question_is_answered(pods: dict[str, Pod], key: str) -> None:
    pod = pods["gateway"]
    gateway = Gateway(f"http://{pod.address}:{pod.ports['http']}", key)
    gateway.wait_until_ready()
    assert "pink" in gateway.ask(MOON)["answer"].lower()
    wait_until(lambda: gateway.ask(MOON)["cache"]["answer"] == "hit", 60, lambda: pod.container.log()[-3000:])


@pytest.mark.parametrize("name", SERVICES)
def test_prometheus_finds_metrics(pods: dict[str, Pod], name: str) -> None:
    pod = pods[name]
    assert "fovea_" in httpx.get(f"http://{pod.address}:{pod.ports['metrics']}/metrics", trust_env=False).text


@pytest.mark.parametrize("name", SERVICES)
def test_user_and_ports_are_those_of_the_image(manifests: Manifests, name: str) -> None:
    config: dict[str, Any] = image(f"fovea-{name}:{TAG}")["Config"]
    container = manifests.container(name)
    exposed = {int(port.removesuffix("/tcp")) for port in config["ExposedPorts"]}
    assert {port["containerPort"] for port in container["ports"]} == exposed
    assert "command" not in container
    assert "args" not in container


@pytest.mark.parametrize("name", ORDER)
def test_a_pod_ends_within_its_grace(pods: dict[str, Pod], manifests: Manifests, name: str) -> None:
    grace = int(manifests.pods[name]["spec"].get("terminationGracePeriodSeconds", 30))
    assert pods[name].container.stop(grace) == 0
