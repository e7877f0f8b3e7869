"""Container files, checked without an engine: names, users, health checks, settings. tests/images starts them."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fovea import __version__

ROOT = Path(__file__).parents[3]
COMPOSE_FILES = (ROOT / "docker-compose.yml", ROOT / "deploy" / "edge" / "compose.yml")
GPU_FILES = (ROOT / "deploy" / "gpu" / "compose.yml", ROOT / "deploy" / "gpu" / "vllm.compose.yml")
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICES = {"encoder": "encoder_service", "llm": "llm_service", "gateway": "gateway"}
SETTINGS = {"encoder": "EncoderSettings", "llm": "LLMSettings", "gateway": "GatewaySettings"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def stage(name: str) -> str:
    """Instructions of one stage of the Dockerfile."""
    (found,) = re.findall(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S)
    return str(found)


def settings_class(service: str) -> Any:
    return getattr(importlib.import_module(f"{SERVICES[service]}.settings"), SETTINGS[service])


def test_the_compose_file_has_redis_the_three_services_and_what_makes_their_secrets(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"redis", "secrets", "keys", *SERVICES}


@pytest.mark.parametrize("service", ["redis", *SERVICES])
def test_every_container_is_health_checked_and_restarted(compose: dict[str, Any], service: str) -> None:
    assert compose["services"][service]["healthcheck"]["test"][0] == "CMD"
    assert compose["services"][service]["restart"] == "unless-stopped"


def test_the_gateway_waits_until_the_others_are_healthy(compose: dict[str, Any]) -> None:
    waits = compose["services"]["gateway"]["depends_on"]
    healthy = {name: {"condition": "service_healthy"} for name in ("redis", "encoder", "llm")}
    assert waits == {"secrets": {"condition": "service_completed_successfully"}, **healthy}


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


@pytest.mark.parametrize("path", COMPOSE_FILES)
def test_secrets_are_made_once_and_mounted_where_they_are_needed(path: Path) -> None:
    """The script itself is run by test_first_secrets.py."""
    services = yaml.safe_load(path.read_text())["services"]
    assert services["secrets"]["entrypoint"][0] == "/app/deploy/first_secrets.sh"
    assert services["secrets"]["entrypoint"][1:] == [mount.split(":")[1] for mount in services["secrets"]["volumes"]]
    assert "restart" not in services["secrets"]
    for key in ("build", "image"):
        assert services["secrets"][key] == services["keys"][key] == services["gateway"][key]
    assert services["keys"]["profiles"], "without a profile it would start with the others"
    assert services["keys"]["environment"]["GATEWAY_KEYS_FILE"] == "/secrets/keys"
    mounts = {
        (name, mount)
        for name, service in services.items()
        for mount in service.get("volumes", ())
        if "secrets:" in mount and name not in ("secrets", "keys")
    }
    expected = {("gateway", "secrets:/secrets:ro"), ("redis", "redis-secrets:/secrets:ro")}
    assert mounts == {(name, mount) for name, mount in expected if name in services}
    for name in {name for name, _ in mounts}:
        assert services[name]["depends_on"]["secrets"] == {"condition": "service_completed_successfully"}
    for name, service in services.items():
        files = {value for key, value in service.get("environment", {}).items() if key.endswith(("_FILE", "_KEY"))}
        assert all(file.startswith(("/secrets/", "/run/credentials/")) for file in files), name
        if name in ("secrets", "keys"):
            assert service["network_mode"] == "none"


def test_the_user_of_the_images_reads_the_secrets(compose: dict[str, Any]) -> None:
    image = stage("service")
    (user,) = re.findall(r"useradd --uid (\d+)", image)
    assert compose["services"]["redis"]["user"] == f"{user}:{user}"
    (owned,) = re.findall(r"chown fovea:fovea (.*)", image)
    assert {mount.split(":")[1] for mount in compose["services"]["secrets"]["volumes"]} <= set(owned.split())
    assert "\nCOPY deploy/first_secrets.sh deploy/first_secrets.sh\n" in stage("gateway")


def test_redis_asks_for_the_password_and_only_the_gateway_is_published(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["redis"]["command"][:2] == ["redis-server", "/secrets/redis.conf"]
    gateway = services["gateway"]["environment"]
    assert gateway["GATEWAY_REDIS_PASSWORD_FILE"] == "/secrets/redis.password"
    assert gateway["GATEWAY_CACHE_KEY_FILE"] == "/secrets/cache.key"
    assert {name for name, service in services.items() if "ports" in service} == {"gateway"}


@pytest.mark.parametrize("path", COMPOSE_FILES)
def test_the_gateway_serves_no_one_without_a_key(path: Path) -> None:
    environment = yaml.safe_load(path.read_text())["services"]["gateway"]["environment"]
    assert environment["GATEWAY_KEYS_FILE"] == "/secrets/keys"
    assert "GATEWAY_ALLOW_ANONYMOUS" not in environment


def test_the_page_shows_how_to_ask_with_the_first_key() -> None:
    lines = (ROOT / "docs" / "containers.md").read_text().splitlines()
    assert "export FOVEA_API_KEY=$(docker compose exec -T gateway cat /secrets/default.key)" in lines
    assert "docker compose run --rm keys add alice" in lines


def test_the_services_find_each_other(compose: dict[str, Any]) -> None:
    gateway = compose["services"]["gateway"]["environment"]
    for target, service, key in (("GATEWAY_ENCODER", "encoder", "ENCODER"), ("GATEWAY_LLM", "llm", "LLM")):
        port = compose["services"][service]["environment"][f"{key}_LISTEN"].rpartition(":")[2]
        assert gateway[target] == f"dns:///{service}:{port}"
        assert compose["services"][service]["healthcheck"]["test"][-1].endswith(f":{port}")


@pytest.mark.parametrize("target", [*SERVICES, "llm-vllm"])
def test_an_image_runs_its_service_as_an_ordinary_user(target: str) -> None:
    text = stage(target)
    assert re.search(r"^USER 10001$", text, re.M)
    assert f'ENTRYPOINT ["python", "-m", "{SERVICES[target.removesuffix("-vllm")]}"]' in text
    assert "HEALTHCHECK" in text


@pytest.mark.parametrize("path", COMPOSE_FILES)
def test_compose_builds_what_make_images_builds(path: Path) -> None:
    services = yaml.safe_load(path.read_text())["services"]
    for name in SERVICES.keys() & services.keys():
        assert services[name]["image"] == f"fovea-{name}:${{IMAGE_TAG:-{__version__}}}"
        build = services[name]["build"]
        assert (path.parent / build["context"]).resolve() == ROOT
        assert build["target"] == name
        assert set(build["args"]) <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.M))


@pytest.mark.parametrize("path", COMPOSE_FILES)
def test_an_empty_text_tower_stands_for_that_of_the_family(path: Path) -> None:
    services = yaml.safe_load(path.read_text())["services"]
    for name in ("encoder", "gateway"):
        value = services[name]["environment"][f"{name.upper()}_TEXT_TOWER"]
        assert value == "${TEXT_TOWER-/app/lab/checkpoints/clip}", "with a colon an empty value would be the default"


@pytest.mark.parametrize("path", COMPOSE_FILES)
def test_a_container_has_no_rights_that_it_does_not_need(path: Path) -> None:
    for name, service in yaml.safe_load(path.read_text())["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


@pytest.mark.parametrize("path", GPU_FILES, ids=lambda path: path.name)
def test_the_files_for_a_gpu_change_services_that_exist_and_build_stages_that_exist(path: Path) -> None:
    for name, service in yaml.safe_load(path.read_text())["services"].items():
        assert name in SERVICES
        stage(service["build"].get("target", name))
        prefix = settings_class(name).model_config["env_prefix"]
        known = {f"{prefix}{field}".upper() for field in settings_class(name).model_fields}
        assert set(service["environment"]) <= known
        assert service["image"].startswith(f"fovea-{service['build'].get('target', name)}:")


def test_a_gpu_is_reserved_for_both_models() -> None:
    services = yaml.safe_load(GPU_FILES[0].read_text())["services"]
    for name in ("encoder", "llm"):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
        assert services[name]["environment"][f"{name.upper()}_DEVICE"] == "cuda"


def test_what_the_images_copy_exists_and_is_not_ignored() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source == "." or source in allowed, source


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
