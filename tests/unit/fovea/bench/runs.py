"""Runs of `fovea bench` on an endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fovea.cli import main
from tests.unit.fovea.bench.chat_endpoint import ChatEndpoint

SMALL = ["--image-size", "40x30"]


def bench(endpoint: ChatEndpoint, tmp_path: Path, *words: str, status: int = 0) -> dict[str, Any]:
    """The result file of a run."""
    out = tmp_path / "result.json"
    assert main(["bench", endpoint.url, *SMALL, "--json", str(out), *words]) == status
    result: dict[str, Any] = json.loads(out.read_text())
    return result
