"""Folder of the small model and its demo. `fovea up` and `fovea demo` find it by its entry point."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["FOLDER"]

FOLDER: Final = Path(__file__).parent
"""Folder with `checkpoints/llava`, `checkpoints/clip` and `demo`."""
