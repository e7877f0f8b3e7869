"""Measurements in a child process, which prints the result as JSON in its last line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["run_child", "run_file"]


def run_child(module: str, arguments: Sequence[str], *, timeout_s: float) -> Any:
    """Runs `python -m <module> --child ARGUMENTS`; its standard error is passed through.

    Returns:
        The JSON value of the last line of its standard output.

    Raises:
        subprocess.CalledProcessError: The process failed.
        subprocess.TimeoutExpired: The process took longer than `timeout_s` seconds.
    """
    return _run(["-m", module, "--child", *arguments], timeout_s)


def run_file(file: str, arguments: Sequence[str], *, environment: Mapping[str, str], timeout_s: float) -> Any:
    """Runs `python <file> ARGUMENTS` with further variables of the environment; see `run_child`."""
    return _run([file, *arguments], timeout_s, os.environ | environment)


def _run(words: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None = None) -> Any:
    finished = subprocess.run(
        [sys.executable, *words], env=environment, stdout=subprocess.PIPE, text=True, timeout=timeout_s, check=True
    )
    return json.loads(finished.stdout.splitlines()[-1])
