"""The small model that comes with Fovea, found by the entry point under which an installation names it."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

__all__ = ["NotInstalled", "demo_folder", "shipped_checkpoint"]

GROUP: Final = "fovea.shipped_model"
"""Entry points of this group name a folder with `checkpoints/` and `demo/`."""


class NotInstalled(RuntimeError):
    """This installation comes without the small model or its demo; the message says what to do instead."""


def shipped_checkpoint(part: str) -> Path:
    """Directory of a checkpoint of the small model.

    Args:
        part: "llava" or "clip" (its text tower).

    Raises:
        NotInstalled: this installation comes without it.
    """
    for folder in _folders():
        path = folder / "checkpoints" / part
        if (path / "config.json").is_file():
            return path
    raise NotInstalled("the shipped small model is not installed; name a checkpoint with --model")


def demo_folder() -> Path:
    """Directory with the demo's image and questions.

    Raises:
        NotInstalled: this installation comes without it.
    """
    for folder in _folders():
        if (folder / "demo" / "demo.json").is_file():
            return folder / "demo"
    raise NotInstalled("the demo's image and questions are not installed")


def _folders() -> list[Path]:
    return [Path(point.load()) for point in entry_points(group=GROUP)]
