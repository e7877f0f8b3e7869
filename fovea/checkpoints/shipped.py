"""The small model and the demo that come with Fovea, found by an entry point of the installation."""

from __future__ import annotations

import contextlib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

__all__ = ["NotInstalled", "demo_folder", "shipped_checkpoint"]

GROUP: Final = "fovea.shipped_model"
"""Entry points of this group name a folder with `checkpoints/` and `demo/`."""


class NotInstalled(RuntimeError):
    """An installation without the small model or its demo; the message has the alternative."""


def shipped_checkpoint(part: str) -> Path:
    """Directory of a checkpoint of the small model.

    Args:
        part: "llava" or "clip" (its text tower).

    Raises:
        NotInstalled: the installation does not include it.
    """
    for folder in _folders():
        path = folder / "checkpoints" / part
        if (path / "config.json").is_file():
            return path
    raise NotInstalled("the shipped small model is not installed; name a checkpoint with --model")


def demo_folder() -> Path:
    """Directory with the demo's image and questions.

    Raises:
        NotInstalled: the installation does not include it.
    """
    for folder in _folders():
        if (folder / "demo" / "demo.json").is_file():
            return folder / "demo"
    raise NotInstalled("the demo's image and questions are not installed")


def _folders() -> list[Path]:
    folders = []
    for point in entry_points(group=GROUP):
        with contextlib.suppress(ImportError):  # declared by an installation whose files are not all there
            folders.append(Path(point.load()))
    return folders
