"""The code of an earlier commit, from the history of this repository."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path
from typing import Final

from tests.documented import ROOT

__all__ = ["environment", "extract", "is_known"]

_PACKAGES: Final = ("fovea", "gateway", "encoder_service", "llm_service", "proto")


def is_known(commit: str) -> bool:
    """Whether the history is here and has the commit. A shallow clone, or a tree without git, may lack it."""
    words = ["git", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def extract(commit: str, folder: Path) -> Path:
    """Writes the services of a commit to `folder`, and returns it."""
    folder.mkdir(exist_ok=True)
    archive = folder / "checkout.tar"
    words = ["git", "-C", str(ROOT), "archive", "--format=tar", "-o", str(archive), commit, *_PACKAGES]
    subprocess.run(words, check=True)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
    return folder


def environment(checkout: Path) -> dict[str, str]:
    """Environment variables of a process that imports the services from a checkout, whatever its working folder."""
    return {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
