"""Code blocks of the pages in docs/, and why some lines of them are not run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.documented import ROOT
from tests.lab_stack import ENVIRONMENT

__all__ = ["NOT_RUN", "Block", "blocks", "run"]

NOT_RUN: Final = {
    "fovea up --model llava-hf/llava-1.5-7b-hf": "it fetches 14 GB of weights and is of use only with a GPU",
    "fovea up": "the services run already",
    "source .venv/bin/activate": "the tests have an environment",
    "make demo": "tests/e2e/test_cli.py runs what it starts",
    "make up": "tests/e2e/test_cli.py runs what it starts",
}
"""Reasons by line."""

_ADDRESS: Final = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        page: name of the page, without its folder and ending.
        kind: language behind the backticks.
        body: text of the block.
    """

    page: str
    kind: str
    body: str

    @property
    def lines(self) -> list[str]:
        """Lines that are run."""
        return [line for line in self.body.splitlines() if line and line not in NOT_RUN]

    def __str__(self) -> str:
        return f"{self.page}: {self.body.strip().splitlines()[-1][:60]}"


def blocks(page: str) -> list[Block]:
    """All code blocks of a page, in order."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    return [Block(page, kind, body) for kind, body in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)]


def run(block: Block, url: str, folder: Path, environment: dict[str, str] | None = None) -> str:
    """Standard output of a block, which must succeed.

    Args:
        block: block of shell commands or of Python.
        url: gateway to ask.
        folder: empty folder to run in; it gets the folder `lab`.
        environment: further variables.
    """
    if not (folder / "lab").exists():
        (folder / "lab").symlink_to(ROOT / "lab")
    text = ("\n".join(block.lines) if block.kind == "bash" else block.body).replace(_ADDRESS, url)
    if block.kind == "bash":
        text = f'fovea() {{ {shlex.quote(sys.executable)} -m fovea.cli "$@"; }}\n{text}'
    shell = ["bash", "-euo", "pipefail", "-c"] if block.kind == "bash" else [sys.executable, "-c"]
    variables = {**os.environ, **ENVIRONMENT, "FOVEA_URL": url, "PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"}
    variables |= environment or {}
    done = subprocess.run([*shell, text], cwd=folder, capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
