"""Measurements in a child process, which prints the result as JSON in its last line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["run_child"]


def run_child(module: str, arguments: Sequence[str], *, timeout_s: float) -> Any:
    """Runs `python -m <module> --child ARGUMENTS`; its standard error is passed through.

    Returns:
        The JSON value of the last line of its standard output.

    Raises:
        subprocess.CalledProcessError: The process failed.
        subprocess.TimeoutExpired: The process took longer than `timeout_s` seconds.
    """
    command = [sys.executable, "-m", module, "--child", *arguments]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=timeout_s, check=True)
    return json.loads(finished.stdout.splitlines()[-1])
