"""Files of the edge box, read by the checkers of systemd and Docker where they are installed."""

from __future__ import annotations

import configparser
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.settings import GatewaySettings

EDGE = Path(__file__).parents[3] / "deploy" / "edge"
SERVICES = {"encoder": ("encoder_service", "EncoderSettings"), "gateway": ("gateway", "GatewaySettings")}


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((EDGE / "compose.yml").read_text())
    return loaded


def variables(kind: str, service: str) -> dict[str, str]:
    if kind == "compose":
        environment = compose()["services"][service]["environment"]
        return {k: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", v) for k, v in environment.items() if k != "HF_HOME"}
    lines = (EDGE / "systemd" / f"{service}.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("kind", ["compose", "systemd"])
@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_is_a_setting_with_an_acceptable_value(
    kind: str, service: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, cls = SERVICES[service]
    for name, value in variables(kind, service).items():
        monkeypatch.setenv(name, value)
    settings = getattr(importlib.import_module(f"{module}.settings"), cls).from_command_line([])
    assert settings.served_model_name == "fovea-lab"
    assert "is not a setting" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["compose", "systemd"])
def test_what_leaves_the_box_is_encrypted_and_carries_a_certificate_and_a_token(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables(kind, "gateway").items():
        monkeypatch.setenv(name, value)
    settings = GatewaySettings.from_command_line([])
    assert settings.llm_tls_ca
    assert settings.llm_tls_cert
    assert settings.llm_tls_key
    assert settings.llm_token_file
    assert settings.keys_file
    assert settings.default_timeout_s > settings.patience_s > 30


def test_only_loopback_reaches_the_box() -> None:
    services = compose()["services"]
    assert all(port.startswith("127.0.0.1:") for port in services["gateway"]["ports"])
    assert "ports" not in services["encoder"]
    assert variables("systemd", "gateway")["GATEWAY_LISTEN"].startswith("127.0.0.1:")
    assert variables("systemd", "encoder")["ENCODER_LISTEN"].startswith("127.0.0.1:")


@pytest.mark.parametrize("service", SERVICES)
def test_a_unit_runs_its_service_as_an_ordinary_user_and_again_when_it_ends(service: str) -> None:
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(EDGE / "systemd" / f"fovea-{service}.service")
    assert unit["Service"]["ExecStart"].endswith(f"python -m {SERVICES[service][0]}")
    assert unit["Service"]["EnvironmentFile"] == f"/etc/fovea/{service}.env"
    assert (unit["Service"]["User"], unit["Service"]["Restart"]) == ("fovea", "always")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze (package systemd) is not here")
def test_systemd_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    """No finding but the missing program, which is installed on the box only."""
    units = []
    for unit in (EDGE / "systemd").glob("*.service"):
        units.append(tmp_path / unit.name)
        units[-1].write_text(unit.read_text().replace("/opt/fovea/.venv/bin/python", sys.executable))
    assert len(units) == len(SERVICES)
    command = ["systemd-analyze", "verify", "--man=no", *map(str, units)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def _has_docker_compose() -> bool:
    if shutil.which("docker") is None:
        return False
    return not subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=60, check=False).returncode


@pytest.mark.skipif(not _has_docker_compose(), reason="docker with its compose plugin is not here")
@pytest.mark.parametrize("path", [EDGE / "compose.yml", EDGE.parents[1] / "docker-compose.yml"])
def test_docker_compose_reads_the_file(path: Path) -> None:
    command = ["docker", "compose", "--file", str(path), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
