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
    config = _find(f"checkpoints/{part}/config.json")
    if config is None:
        raise NotInstalled("the shipped small model is not installed; name a checkpoint with --model")
    return config.parent


def demo_folder() -> Path:
    """Directory with the demo's image and questions.

    Raises:
        NotInstalled: the installation does not include it.
    """
    questions = _find("demo/demo.json")
    if questions is None:
        raise NotInstalled("the demo's image and questions are not installed")
    return questions.parent


def _find(file: str) -> Path | None:
    """A file of the shipped model by its path in the folder; None where no installation has it."""
    for point in entry_points(group=GROUP):
        with contextlib.suppress(ImportError):  # declared by an installation whose files are not all there
            path = Path(point.load(), file)
            if path.is_file():
                return path
    return None
