"""Container files, checked without a container engine: names, users, health checks, settings."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
SERVICES = {"encoder": "encoder_service", "llm": "llm_service", "gateway": "gateway"}
SETTINGS = {"encoder": "EncoderSettings", "llm": "LLMSettings", "gateway": "GatewaySettings"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def dockerfile(service: str) -> str:
    return (ROOT / SERVICES[service] / "Dockerfile").read_text()


def settings_class(service: str) -> Any:
    return getattr(importlib.import_module(f"{SERVICES[service]}.settings"), SETTINGS[service])


def test_the_compose_file_has_redis_and_the_three_services(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"redis", *SERVICES}


@pytest.mark.parametrize("service", ["redis", *SERVICES])
def test_every_container_is_health_checked_and_restarted(compose: dict[str, Any], service: str) -> None:
    assert compose["services"][service]["healthcheck"]["test"][0] == "CMD"
    assert compose["services"][service]["restart"] == "unless-stopped"


def test_the_gateway_waits_until_the_others_are_healthy(compose: dict[str, Any]) -> None:
    waits = compose["services"]["gateway"]["depends_on"]
    assert waits == {name: {"condition": "service_healthy"} for name in ("redis", "encoder", "llm")}


@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_is_a_setting_with_an_acceptable_value(
    compose: dict[str, Any], service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = settings_class(service)
    prefix = cls.model_config["env_prefix"]
    ours = {
        k: v for k, v in compose["services"][service]["environment"].items() if k not in ("HF_HOME", "OMP_WAIT_POLICY")
    }
    assert all(name.startswith(prefix) for name in ours)
    for name, value in ours.items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", value))
    settings = cls.from_command_line([])
    assert settings.model == "/app/lab/checkpoints/llava"
    assert settings.listen.startswith("0.0.0.0:")


def test_the_services_find_each_other(compose: dict[str, Any]) -> None:
    gateway = compose["services"]["gateway"]["environment"]
    for target, service, key in (("GATEWAY_ENCODER", "encoder", "ENCODER"), ("GATEWAY_LLM", "llm", "LLM")):
        port = compose["services"][service]["environment"][f"{key}_LISTEN"].rpartition(":")[2]
        assert gateway[target] == f"dns:///{service}:{port}"
        assert compose["services"][service]["healthcheck"]["test"][-1].endswith(f":{port}")


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_runs_its_service_as_an_ordinary_user(compose: dict[str, Any], service: str) -> None:
    text = dockerfile(service)
    final = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER fovea$", final, re.M)
    assert f'ENTRYPOINT ["python", "-m", "{SERVICES[service]}"]' in final
    assert "HEALTHCHECK" in final
    assert compose["services"][service]["build"] == {"context": ".", "dockerfile": f"{SERVICES[service]}/Dockerfile"}


@pytest.mark.parametrize("service", SERVICES)
def test_what_an_image_copies_exists(service: str) -> None:
    for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile(service), re.M):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source


def test_the_gateways_image_holds_no_torch() -> None:
    assert "torch==" not in dockerfile("gateway").replace("grep -v '^torch=='", "")
    assert ".[gateway]" in dockerfile("gateway")
