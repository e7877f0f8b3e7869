"""The environment that deploy/kustomize gives its pods, given to the three services as processes on this machine."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from fovea.cli.program import main
from fovea.processes.stack import free_port
from tests.e2e.conftest import STARTUP_S, Client
from tests.lab_stack import lab_stack
from tests.redis_server import RedisServer
from tests.unit.deploy.kubernetes.manifests import SERVICES, Manifests, load

TIMEOUT_S = 20


class Deployed:
    """Addresses of the services of a bundle on this machine."""

    def __init__(
        self, manifests: Manifests, grpc_addresses: dict[str, str], metrics: dict[str, str], url: str, keys_file: Path
    ) -> None:
        self.manifests = manifests
        self.grpc = grpc_addresses
        self.metrics = metrics
        self.url = url
        self.keys_file = keys_file

    def healthy(self, name: str, probe: dict[str, Any]) -> bool:
        """Result of the kubelet's probe."""
        if "httpGet" in probe:
            return bool(httpx.get(self.url + probe["httpGet"]["path"], trust_env=False).status_code == 200)
        with grpc.insecure_channel(self.grpc[name]) as channel:
            request = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
            reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S)
            return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Deployed]:
    manifests = load("base")
    folder = tmp_path_factory.mktemp("deployed")
    stack = lab_stack(folder / "log")
    keys_file = folder / "keys"
    keys_file.write_bytes(base64.b64decode(manifests.of("Secret")["gateway-keys"]["data"]["keys"]))
    addresses = {name: f"127.0.0.1:{free_port()}" for name in SERVICES}
    flags = {SERVICES[name].package: ["--metrics-listen", address] for name, address in addresses.items()}
    flags["gateway"] += ["--redis-url", redis_server.url, "--keys-file", str(keys_file)]
    stack.flags = flags
    environments = [manifests.environment(name) for name in SERVICES]
    stack.environment = {name: value for one in environments for name, value in one.items()}
    with stack:
        stack.wait_ready(STARTUP_S)
        yield Deployed(
            manifests,
            {"encoder": stack.encoder_address, "llm": stack.llm_address},
            {name: f"http://{address}/metrics" for name, address in addresses.items()},
            stack.url,
            keys_file,
        )


def test_a_question_is_answered_once_there_is_a_key(
    deployed: Deployed, picture: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with (client := Client(deployed.url)).http:
        assert client.post(picture, "Is there a red star?").status_code == 401
        assert main(["keys", "add", "alice", "--file", str(deployed.keys_file)]) == 0
        client.http.headers["authorization"] = f"Bearer {capsys.readouterr().out.strip()}"
        answer = client.ask(picture, "Is there a red star?")
    assert answer["answer"] in ("yes", "no")
    assert answer["model"] == deployed.manifests.environment("gateway")["GATEWAY_SERVED_MODEL_NAME"]


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("kind", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_the_probes_find_the_services_healthy(deployed: Deployed, name: str, kind: str) -> None:
    assert deployed.healthy(name, deployed.manifests.container(name)[kind])


@pytest.mark.parametrize("name", SERVICES)
def test_prometheus_finds_what_the_autoscalers_ask_for(deployed: Deployed, name: str) -> None:
    families = text_string_to_metric_families(httpx.get(deployed.metrics[name], trust_env=False).text)
    autoscaler = deployed.manifests.of("HorizontalPodAutoscaler")[name]
    asked = {metric["pods"]["metric"]["name"] for metric in autoscaler["spec"]["metrics"]}
    assert asked <= {family.name for family in families}
