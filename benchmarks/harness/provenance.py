"""Provenance of a figure: command, commit, versions and machine. Every file of `results/` holds it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["origin", "provenance"]

_PACKAGES = ("torch", "transformers", "numpy", "grpcio", "pillow", "tokenizers")


def _git(*words: str) -> str:
    try:
        finished = subprocess.run(
            ["git", *words],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return finished.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _command(module: str) -> str:
    """The command line without --out, since the folder does not matter to readers."""
    words = iter(sys.argv[1:])
    kept = [word for word in words if not (word == "--out" and next(words, None)) and not word.startswith("--out=")]
    return " ".join(["python", "-m", module, *kept])


def provenance(module: str, *, packages: Sequence[str] = ()) -> dict[str, object]:
    """Facts about this run of `python -m <module>`; `packages` adds to the packages whose versions are recorded."""
    return {
        "command": _command(module),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _git("rev-parse", "--short=12", "HEAD") + ("-dirty" if _git("status", "--porcelain") else ""),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in (*_PACKAGES, *packages)},
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "architecture": platform.machine(),
            "accelerator": "none",
        },
    }


def origin(result: dict[str, Any], *, packages: Sequence[str] = ()) -> str:
    """The first sentence of a report: command, seed where there is one, commit, machine and date of its figures.

    Args:
        result: a result, with `provenance` and perhaps `seed`.
        packages: packages whose versions matter to the figures; those that were not recorded are left out.
    """
    facts = result["provenance"]
    machine = facts["machine"]
    parts = [f"`{facts['command']}`"]
    if "seed" in result:
        parts.append(f"seed {result['seed']}")
    parts.append(f"commit {facts['commit']}")
    parts += [f"{name} {facts['versions'][name]}" for name in packages if name in facts["versions"]]
    parts += [machine["processor"], f"{machine['cores']} cores", "no accelerator", facts["date"]]
    return ", ".join(parts) + "."
