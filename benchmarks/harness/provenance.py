"""Provenance of a figure: command, commit, versions and machine. Every file of `results/` holds it.

Where there is no git, as on a machine that got a copy of the tree, the variable BENCHMARK_COMMIT names the commit.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fovea.bench.machine import processor_name

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


def _command(module: str) -> str:
    """The command line without --out, since the folder does not matter to readers."""
    words = iter(sys.argv[1:])
    kept = [word for word in words if not (word == "--out" and next(words, None)) and not word.startswith("--out=")]
    return " ".join(["python", "-m", module, *kept])


def _commit() -> str:
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit == "unknown":
        return os.environ.get("BENCHMARK_COMMIT", commit)
    return commit + ("-dirty" if _git("status", "--porcelain") else "")


def _versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of the packages that are installed."""
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _accelerator() -> str | dict[str, object]:
    """The CUDA devices, or "none". A run that has not imported torch used none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return "none"
    return {
        "name": torch.cuda.get_device_name(),
        "count": torch.cuda.device_count(),
        "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "driver": _driver(),
    }


def _driver() -> str:
    """Version of the NVIDIA driver."""
    try:
        return Path("/sys/module/nvidia/version").read_text(encoding="utf-8").strip()
    except OSError:
        pass
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return finished.stdout.split("\n")[0].strip()


def provenance(module: str, *, packages: Sequence[str] = ()) -> dict[str, object]:
    """Facts about this run of `python -m <module>`; `packages` adds to the packages whose versions are recorded."""
    return {
        "command": _command(module),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": _versions((*_PACKAGES, *packages)),
        "machine": {
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "architecture": platform.machine(),
            "accelerator": _accelerator(),
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
    parts += [
        machine["processor"],
        f"{machine['cores']} cores",
        _accelerator_text(machine.get("accelerator", "none")),
        facts["date"],
    ]
    return ", ".join(parts) + "."


def _accelerator_text(accelerator: str | dict[str, Any]) -> str:
    """The accelerator as a result file holds it, in words. Files from before 2026-12 hold "none"."""
    if isinstance(accelerator, str):
        return "no accelerator" if accelerator == "none" else accelerator
    number = f"{accelerator['count']} x " if accelerator["count"] > 1 else ""
    return f"{number}{accelerator['name']} (CUDA {accelerator['cuda']}, driver {accelerator['driver']})"
