"""The examples run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fovea.processes.stack import Stack
from tests.documented import ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture
def picture_file(picture: bytes, tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    path.write_bytes(picture)
    return str(path)


def run(stack: Stack, *command: str) -> str:
    environment = {**os.environ, "FOVEA_URL": stack.url}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_curl(stack: Stack, picture_file: str) -> None:
    output = run(stack, str(EXAMPLES / "curl.sh"), picture_file)
    assert output.count('"finish_reason"') == 4
    assert "event: done" in output
    assert '"desap"' in output


def test_stream(stack: Stack, picture_file: str) -> None:
    output = run(stack, sys.executable, str(EXAMPLES / "stream.py"), picture_file, "Describe the picture.")
    assert "16 of 144 visual tokens" in output


def test_compare_pruners(stack: Stack, picture_file: str) -> None:
    output = run(stack, sys.executable, str(EXAMPLES / "compare_pruners.py"), picture_file, "Is there a red star?")
    assert {line.split()[0] for line in output.splitlines()} >= {"desap", "cls", "random", "none", "fastv"}


@pytest.mark.parametrize(
    "code", re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "client.md").read_text(), re.M | re.S)
)
def test_the_code_of_the_page_about_the_client_runs(stack: Stack, code: str) -> None:
    assert run(stack, sys.executable, "-c", code.replace('"http://127.0.0.1:8000"', "")).strip()


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {
        "curl.sh",
        "stream.py",
        "compare_pruners.py",
    }
