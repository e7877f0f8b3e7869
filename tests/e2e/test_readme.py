"""The commands of the README work, word for word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fovea.processes.stack import Stack
from tests.lab_stack import ENVIRONMENT

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = [(kind, body) for kind, body in re.findall(r"^```(\w+)\n(.*?)^```$", README, re.M | re.S)]
NEEDS_WEIGHTS = "--model llava-hf/"  # the one block that the README itself says was never run
NEEDS_DOCKER = "docker compose "  # tests/unit/deploy/test_containers.py compares these lines with the compose file


def shell_lines() -> list[str]:
    return [line for kind, body in BLOCKS if kind == "bash" for line in body.splitlines() if line]


def test_every_block_is_of_a_kind_that_is_run_here() -> None:
    assert {kind for kind, _ in BLOCKS} <= {"bash", "python"}
    assert [line.split()[0] for line in shell_lines()].count("curl") >= 1


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("make ")])
def test_a_make_target_exists(line: str) -> None:
    subprocess.run(["make", "--dry-run", line.split()[1]], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(
    "line",
    [
        line
        for line in shell_lines()
        if not line.startswith("make ") and NEEDS_WEIGHTS not in line and NEEDS_DOCKER not in line
    ],
)
def test_a_shell_line_works(line: str, stack: Stack, tmp_path: Path) -> None:
    line = line.replace("http://127.0.0.1:8000", stack.url).replace(" lab/demo", f" {ROOT}/lab/demo")
    line = line.replace("=@lab/demo", f"=@{ROOT}/lab/demo")
    if line.startswith(("fovea ask", "fovea explain")):
        line = f"{sys.executable} -m fovea.cli {line.removeprefix('fovea ')} --url {stack.url}"
    done = subprocess.run(
        ["bash", "-euc", line],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT, "FOVEA_API_KEY": "fv-any"},  # the stack takes every key
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert '"error"' not in done.stdout


@pytest.mark.parametrize("body", [body for kind, body in BLOCKS if kind == "python"])
def test_a_python_block_works(body: str, stack: Stack) -> None:
    done = subprocess.run(
        [sys.executable, "-c", body.replace("http://127.0.0.1:8000", stack.url)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "visual_tokens_kept" in done.stdout


def test_every_file_that_a_document_links_to_exists() -> None:
    for document in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} -> {target}"
