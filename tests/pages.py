"""Code blocks of the pages, run word for word, and why some lines are not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.documented import ROOT
from tests.lab_stack import ENVIRONMENT

__all__ = ["LINES_NOT_RUN", "Block", "blocks", "run"]

LINES_NOT_RUN: Final = {
    "fovea up --model llava-hf/llava-1.5-7b-hf": "it fetches 14 GB of weights and is of use only with a GPU",
    "fovea up": "the services run already",
    "source .venv/bin/activate": "the tests have an environment",
    "make demo": "tests/e2e/test_cli.py runs what it starts",
    "make up": "tests/e2e/test_cli.py runs what it starts",
}
"""Reasons by line."""

_ADDRESS: Final = "http://127.0.0.1:8000"
_FOLDERS: Final = ("examples", "lab")


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        page: file, from the root of the repository.
        kind: language behind the backticks.
        body: text of the block.
    """

    page: str
    kind: str
    body: str

    @property
    def key(self) -> tuple[str, str]:
        """Page and first line."""
        return self.page, self.body.splitlines()[0]

    @property
    def code(self) -> str:
        """What is run of it."""
        if self.kind == "python":
            return self.body
        return "\n".join(line for line in self.body.splitlines() if line not in LINES_NOT_RUN)

    def __str__(self) -> str:
        return f"{self.page}: {self.key[1][:60]}"


def blocks(page: str) -> list[Block]:
    """All code blocks of a page that have a language, in order."""
    text = (ROOT / page).read_text()
    return [Block(page, kind, body) for kind, body in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)]


def run(block: Block, url: str, folder: Path, environment: dict[str, str] | None = None) -> str:
    """Standard output of a block, which must succeed.

    Args:
        block: block of shell commands or of Python.
        url: gateway to ask.
        folder: folder to run in; it gets links to the folders that pages name.
        environment: further variables.
    """
    for name in _FOLDERS:
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    variables = {
        **os.environ,
        **ENVIRONMENT,
        "FOVEA_URL": url,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "no_proxy": "127.0.0.1",
        **(environment or {}),
    }
    shell = [sys.executable, "-c"] if block.kind == "python" else ["bash", "-euo", "pipefail", "-c"]
    code = block.code.replace(_ADDRESS, url)
    done = subprocess.run([*shell, code], cwd=folder, capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
