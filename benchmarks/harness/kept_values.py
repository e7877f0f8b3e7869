"""Values that long benchmarks keep in a folder, so that an interrupted run goes on there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["kept_value"]


def kept_value(folder: Path | None, label: str, compute: Callable[[], Any]) -> Any:
    """A value: from its file in the folder if that is there, else computed and written there.

    Args:
        folder: folder of the files, created if it is missing; None: nothing is kept.
        label: name of the value, from which that of its file is made.
        compute: function that returns the value, as JSON has it.
    """
    if folder is None:
        return compute()
    file = folder / f"{label.replace('/', '_').replace(' ', '_')}.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    value = compute()
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")
    return value
