"""Every pod: its rights, its probes, its end."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from fovea.v1 import encoder_pb2, llm_pb2
from gateway.app import create_app
from tests.unit.deploy.kubernetes.manifests import SERVICES, WITH_GATEWAY, Manifests, load

ROOT = Path(__file__).parents[4]
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# Seconds after the server's grace, for closing connections and stopping the model's thread.
END_S = 5


def templates(manifests: Manifests) -> dict[str, Any]:
    return manifests.pods | load("models").pods


def test_no_pod_has_rights_that_it_does_not_need(manifests: Manifests) -> None:
    for template in templates(manifests).values():
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= {"emptyDir", "persistentVolumeClaim", "secret"}


def test_our_pods_run_as_the_user_of_their_images(manifests: Manifests) -> None:
    for name, template in templates(manifests).items():
        image = template["spec"]["containers"][0]["image"]
        if image.startswith("fovea-"):
            (user,) = re.findall(r"useradd --uid (\d+)", (ROOT / "Dockerfile").read_text())
            assert template["spec"]["securityContext"]["runAsUser"] == int(user), name


def test_memory_and_threads_are_bounded(manifests: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    for template in templates(manifests).values():
        for container in template["spec"]["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]
    for name in {"encoder", "llm"} & set(manifests.ours):
        settings = manifests.settings(name, monkeypatch)
        requested = manifests.container(name)["resources"]["requests"]["cpu"]
        cores = math.ceil(float(requested.removesuffix("m")) / (1000 if requested.endswith("m") else 1))
        assert settings.num_threads == cores, "0 would take all cores of the node"
        assert getattr(settings, "decode_workers", cores) == cores


def test_probes_ask_ports_and_health_services_that_exist(manifests: Manifests) -> None:
    descriptors = {
        "encoder": encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name,
        "llm": llm_pb2.DESCRIPTOR.services_by_name["LLMService"].full_name,
    }
    for name in {"encoder", "llm"} & set(manifests.ours):
        container = manifests.container(name)
        assert SERVICES[name].health == descriptors[name]
        (number,) = [port["containerPort"] for port in container["ports"] if port["name"] == "grpc"]
        for probe in PROBES:
            if grpc := container[probe].get("grpc"):
                assert grpc["port"] == number
                assert grpc.get("service", "") in ("", SERVICES[name].health)
            else:
                assert container[probe]["exec"]["command"][-1] == f"127.0.0.1:{number}"


@pytest.mark.parametrize("bundle", WITH_GATEWAY)
def test_the_gateways_probes_are_paths_that_it_serves(bundle: str) -> None:
    manifests = load(bundle)
    checkpoints = ROOT / "lab" / "checkpoints"
    settings = SERVICES["gateway"].settings(model=str(checkpoints / "llava"), text_tower=str(checkpoints / "clip"))
    served = set(create_app(settings).openapi()["paths"])
    container = manifests.container("gateway")
    asked = {probe: container[probe]["httpGet"] for probe in PROBES}
    assert {one["port"] for one in asked.values()} == {"http"}
    assert {probe: one["path"] for probe, one in asked.items()} == {
        "startupProbe": "/readyz",
        "readinessProbe": "/healthz",  # not /readyz: a gateway stays ready during an outage of its services
        "livenessProbe": "/healthz",
    }
    assert {one["path"] for one in asked.values()} <= served


def test_loading_a_model_may_take_half_an_hour(manifests: Manifests) -> None:
    for name in manifests.ours:
        probe = manifests.container(name)["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= 1800


def test_a_pod_is_given_the_time_that_its_drain_takes(manifests: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in manifests.ours:
        hook = manifests.container(name).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        before = int(hook[1]) if hook else 0
        grace = manifests.pods[name]["spec"]["terminationGracePeriodSeconds"]
        assert before + manifests.settings(name, monkeypatch).drain_grace_s + END_S <= grace


def test_a_node_can_be_drained_while_others_answer(manifests: Manifests) -> None:
    for name in manifests.ours:
        labels = manifests.pods[name]["metadata"]["labels"]
        (budget,) = [
            one["spec"]
            for one in manifests.of("PodDisruptionBudget").values()
            if one["spec"]["selector"]["matchLabels"].items() <= labels.items()
        ]
        assert 1 <= budget["maxUnavailable"] < manifests.replicas(name)
        spread = manifests.pods[name]["spec"]["topologySpreadConstraints"]
        assert "kubernetes.io/hostname" in {one["topologyKey"] for one in spread}
        assert all(one["labelSelector"]["matchLabels"].items() <= labels.items() for one in spread)


def test_gpus_are_asked_for_where_the_services_insist_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = load("gpu")
    for name in ("encoder", "llm"):
        assert manifests.settings(name, monkeypatch).device == "cuda"
        assert manifests.container(name)["resources"]["limits"]["nvidia.com/gpu"] == 1
        update = manifests.of("Deployment")[name]["spec"]["strategy"]["rollingUpdate"]
        assert update == {"maxSurge": 0, "maxUnavailable": 1}, "a rollout must not wait for a GPU that is not there"
