"""Where a figure comes from: commit, versions, machine, command. Stands in every file of `results/`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["provenance"]

_PACKAGES = ("torch", "transformers", "numpy", "grpcio", "pillow", "tokenizers")


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _command(module: str) -> str:
    """Without --out: where somebody keeps results is nobody else's business."""
    words = iter(sys.argv[1:])
    kept = [word for word in words if not (word == "--out" and next(words, None)) and not word.startswith("--out=")]
    return " ".join(["python", "-m", module, *kept])


def provenance(module: str, *, packages: Sequence[str] = ()) -> dict[str, object]:
    """Facts about this run of `python -m <module>`; `packages` are those whose versions matter besides the usual."""
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
