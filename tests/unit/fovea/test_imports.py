from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.without_numpy import without_numpy

WITHOUT_TORCH = (
    "fovea",
    "fovea.cli",
    "fovea.client",
    "fovea.wire.tensors",
    "fovea.rpc.server",
    "fovea.processes.stack",
)


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_shared_modules_import_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'fovea.modeling' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_imports_services_only_to_advise_and_then_without_torch() -> None:
    code = (
        "import sys, fovea.cli.program; sys.exit(bool({'gateway', 'encoder_service', 'llm_service'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    words = [sys.executable, "-X", "importtime", "-m", "fovea.cli", "up", "--max-images", "3"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"gateway.settings.requests", "encoder_service.media.video_limits"} <= imported
    assert not imported & {"torch", "transformers", "numpy", "fastapi"}


@pytest.mark.parametrize("command", ["ask", "bench", "chat", "demo", "explain", "up", "keys"])
def test_commands_of_an_installation_without_a_service_need_no_numpy(command: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fovea.cli", command, "--help"],
        env={**os.environ, **without_numpy(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_without_numpy_no_rans_coder_is_missed(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "fovea.cli", "doctor", "--url", "http://127.0.0.1:9", "--json"]
    environment = {**os.environ, **without_numpy(tmp_path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    (finding,) = (found for found in json.loads(done.stdout) if found["subject"] == "rANS")
    assert finding["level"] == "ok"


@pytest.mark.parametrize("service", ["encoder_service", "llm_service"])
@pytest.mark.parametrize(("flags", "status"), [(["--help"], 0), (["--model", "m", "--listen", "nowhere"], 2)])
def test_neither_help_nor_a_wrong_setting_waits_for_torch(service: str, flags: list[str], status: int) -> None:
    command = [sys.executable, "-X", "importtime", "-m", service, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert f"{service}.settings" in imported
    assert not imported & {"av", "torch", "transformers"}
