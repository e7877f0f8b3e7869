"""Files of the repository."""

from __future__ import annotations

import subprocess

from tests.documented import ROOT

__all__ = ["unignored_files"]


def unignored_files() -> list[str]:
    """Files that git does not ignore, tracked or not, by their paths from the root."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if (ROOT / name).is_file()]
