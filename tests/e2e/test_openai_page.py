"""The code blocks of docs/openai.md work, word for word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fovea.processes.stack import Stack
from tests.documented import ROOT
from tests.lab_stack import ENVIRONMENT

PAGE = (ROOT / "docs" / "openai.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.M | re.S)


def test_every_block_is_of_a_kind_that_is_run_here() -> None:
    assert {kind for kind, _ in BLOCKS} == {"bash", "python"}


@pytest.mark.parametrize(("kind", "body"), BLOCKS)
@pytest.mark.usefixtures("unchanged")
def test_a_block_works(kind: str, body: str, stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "lab").symlink_to(ROOT / "lab")
    shell = ["bash", "-euo", "pipefail", "-c"] if kind == "bash" else [sys.executable, "-c"]
    done = subprocess.run(
        [*shell, body.replace("http://127.0.0.1:8000", stack.url)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT, "no_proxy": "127.0.0.1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert '"error"' not in done.stdout
    if "What color is the moon?" in body:
        assert "pink" in done.stdout.lower()
