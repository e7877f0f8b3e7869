"""Processes that run the code of another checkout."""

from __future__ import annotations

from pathlib import Path

__all__ = ["code_of"]


def code_of(root: Path) -> dict[str, str]:
    """Environment in which Python imports the packages of the checkout in `root`."""
    # Without PYTHONSAFEPATH, `python -m` would look into the working directory first, which is another checkout.
    return {"PYTHONPATH": str(root.resolve()), "PYTHONSAFEPATH": "1"}
