"""What tests of the `fovea` command share: its input, and what it sends and prints."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from fovea.cli import main
from tests.plain_gateway import PlainGateway

DEMO = Path(__file__).parents[4] / "lab" / "demo" / "demo.png"
EXPLAINED = {
    "model": "m",
    "usage": {"visual_tokens_total": 4, "visual_tokens_kept": 1},
    "explain": {"pruner": "cls", "grid": [2, 2], "kept": [0], "merged_into": [[0, -1], [-1, -1]]},
}
NOBODY = "http://127.0.0.1:9"


def fields(gateway: PlainGateway) -> dict[str, str]:
    return {name: value.decode() for name, value in gateway.form if name not in ("image", "video")}


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Standard error of a wrong command line."""
    try:
        status = main(words)
    except SystemExit as left:
        status = left.code
    error = capsys.readouterr().err
    assert status == 2, error
    usage, message = error.strip().split("\n")
    assert usage.startswith(f"usage: fovea {words[0]} ")
    return message
