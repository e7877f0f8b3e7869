"""The manifests' variables are settings of the services, and their addresses lead to each other."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from fovea import __version__
from fovea.rpc.server import split_address
from tests.unit.deploy.kubernetes.manifests import SERVICES, WITH_GATEWAY, Manifests, load

ROOT = Path(__file__).parents[4]
OTHER_VARIABLES = {"HF_HUB_OFFLINE", "HOME"}


def ports(manifests: Manifests, name: str) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in manifests.container(name)["ports"]}


def test_every_variable_is_a_setting_with_an_acceptable_value(
    manifests: Manifests, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in manifests.ours:
        prefix = SERVICES[name].settings.model_config["env_prefix"]
        known = {f"{prefix}{field}".upper() for field in SERVICES[name].settings.model_fields}
        assert set(manifests.environment(name)) - known == OTHER_VARIABLES
        manifests.settings(name, monkeypatch)
    assert capsys.readouterr().err == ""


def test_services_listen_where_their_ports_and_prometheus_look(
    manifests: Manifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in manifests.ours:
        settings = manifests.settings(name, monkeypatch)
        annotations = manifests.pods[name]["metadata"]["annotations"]
        scraped = int(annotations["prometheus.io/port"])
        assert annotations["prometheus.io/scrape"] == "true"
        host, port = split_address(settings.listen)
        assert host == "0.0.0.0"
        assert ports(manifests, name) == {"http" if name == "gateway" else "grpc": port, "metrics": scraped}
        assert split_address(settings.metrics_listen) == ("0.0.0.0", scraped)


@pytest.mark.parametrize("bundle", WITH_GATEWAY)
def test_the_gateway_finds_all_pods_of_both_services_and_redis(bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = load(bundle)
    settings = manifests.settings("gateway", monkeypatch)
    for target in (settings.encoder, settings.llm, settings.redis_url.get_secret_value()):
        url = urlsplit(target)
        host, port = (url.hostname, url.port) if url.hostname else split_address(url.path.lstrip("/"))
        service = manifests.of("Service")[str(host)]["spec"]
        (declared,) = service["ports"]
        (pod,) = [one for one in manifests.of("Deployment") if selects(service["selector"], manifests, one)]
        assert ports(manifests, pod)[declared["targetPort"]] == declared["port"] == port
        if url.scheme == "dns":
            assert service["clusterIP"] == "None", "gRPC balances over the addresses of pods"
    assert settings.encoder.startswith("dns:///")
    assert settings.llm.startswith("dns:///")


def selects(selector: dict[str, str], manifests: Manifests, pod: str) -> bool:
    return selector.items() <= manifests.pods[pod]["metadata"]["labels"].items()


def test_all_serve_one_checkpoint_under_one_name(manifests: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [manifests.settings(name, monkeypatch) for name in manifests.ours]
    assert len({(one.model, one.served_model_name) for one in settings}) == 1
    assert len({one.text_tower for one in settings if hasattr(one, "text_tower")}) <= 1


def test_images_are_those_of_the_compose_file_in_this_version(manifests: Manifests) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for name in manifests.of("Deployment"):
        image = re.sub(r"\$\{\w+:-(.*)\}", r"\1", compose["services"][name]["image"])
        assert manifests.container(name)["image"] == image
        assert name == "redis" or image.endswith(f":{__version__}")


def test_redis_gets_the_arguments_of_the_compose_file() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    given = [word for word in compose["services"]["redis"]["command"] if word != "/secrets/redis.conf"]
    assert load("base").container("redis")["args"] == given


def test_what_is_served_from_the_hub_is_what_the_job_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, models = load("gpu"), load("models")
    settings = gpu.settings("encoder", monkeypatch)
    fetched = [container["command"][-1] for container in models.pods["fetch-models"]["spec"]["containers"]]
    assert fetched == [settings.model, settings.text_tower]
    (claim,) = models.of("PersistentVolumeClaim")
    for name in gpu.ours:
        (volume,) = [one for one in gpu.pods[name]["spec"]["volumes"] if one["name"] == "models"]
        assert volume == {"name": "models", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        assert gpu.environment(name)["HF_HUB_OFFLINE"] == "1"


def test_volumes_of_models_are_mounted_where_the_images_look_for_them() -> None:
    for manifests in (load("gpu"), load("models")):
        for name, template in manifests.pods.items():
            for container in template["spec"]["containers"] if name != "redis" else []:
                (mount,) = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "models"]
                assert f"HF_HOME={mount}\n" in (ROOT / "Dockerfile").read_text()
