from __future__ import annotations

import subprocess
import sys

import pytest

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


@pytest.mark.parametrize("service", ["encoder_service", "llm_service"])
@pytest.mark.parametrize(("flags", "status"), [(["--help"], 0), (["--model", "m", "--listen", "nowhere"], 2)])
def test_neither_help_nor_a_wrong_setting_waits_for_torch(service: str, flags: list[str], status: int) -> None:
    command = [sys.executable, "-X", "importtime", "-m", service, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert f"{service}.settings" in imported
    assert not imported & {"av", "torch", "transformers"}
