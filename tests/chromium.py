"""The Chromium of this machine, which tests drive with Playwright."""

from __future__ import annotations

import shutil
from typing import Final

__all__ = ["CHROMIUM", "FLAGS"]

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""Path of the program; None where it is not installed."""

FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
)
"""Flags for a browser without a window that speaks to nobody but this machine."""
