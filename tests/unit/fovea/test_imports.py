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
