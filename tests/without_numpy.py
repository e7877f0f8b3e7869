"""Environment of processes that find no numpy, as in the image of the gateway."""

from __future__ import annotations

import os
from pathlib import Path

from tests.documented import ROOT

__all__ = ["without_numpy"]

_REFUSAL = """
import sys

class WithoutNumpy:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "numpy":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, WithoutNumpy)
"""


def without_numpy(folder: Path) -> dict[str, str]:
    """Variables of a Python process, and of those that it starts, in which numpy cannot be imported.

    Args:
        folder: Empty folder, which the processes read.
    """
    (folder / "sitecustomize.py").write_text(_REFUSAL, encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
