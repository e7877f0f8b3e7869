"""Packages of somebody else, installed by pip into a directory of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["install", "project"]


def project(name: str, entry_points: Mapping[str, Mapping[str, str]]) -> str:
    """The pyproject.toml of a package with one module.

    Args:
        name: Name of the distribution; its module is the same with underscores.
        entry_points: Object of the module by name of the entry point, by group.
    """
    module = name.replace("-", "_")
    lines = [f'[project]\nname = "{name}"\nversion = "1.0"\n\n[tool.setuptools]\npy-modules = ["{module}"]']
    for group, objects in entry_points.items():
        lines.append(f'\n[project.entry-points."{group}"]')
        lines += [f'{key} = "{value}"' for key, value in objects.items()]
    return "\n".join(lines) + "\n"


def install(root: Path, files: Mapping[str, str]) -> Path:
    """Directory for PYTHONPATH with an installed package.

    Args:
        root: Directory to work in.
        files: Text of each file of the project by name, pyproject.toml among them.
    """
    source, target = root / "project", root / "installed"
    source.mkdir(parents=True)
    for name, text in files.items():
        (source / name).write_text(text)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    words = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    subprocess.run(words, check=True, capture_output=True, text=True)
    return target
