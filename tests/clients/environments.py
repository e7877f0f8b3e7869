"""Environments of the clients, and programs that run in them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"


def folder() -> Path:
    """Folder of the environments; the lane's target sets it."""
    return Path(os.environ["CLIENTS_VENV"])


def run(environment: str, *words: str, cwd: Path, **variables: str) -> str:
    """Standard output of a program in an environment.

    Args:
        environment: name of the environment.
        words: program, from the environment's `bin` or from `PATH`, and its arguments.
        cwd: working directory.
        variables: environment variables besides the few that are passed on.
    """
    home = folder() / environment
    kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        words,
        cwd=cwd,
        env={
            **kept,
            # Nothing is read from, or left in, the home of the user.
            "HOME": str(cwd),
            "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "NO_COLOR": "1",
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout
