"""Log lines of the services: one JSON object each, whatever a record holds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_LOG = """
import logging, sys
from fovea import telemetry
telemetry.configure_logging("gateway")
logging.getLogger("x").info(eval(sys.argv[1]), extra={"fields": {"cost": 0.25, "key": None}})
"""


@pytest.mark.parametrize("text", ["caf\u00e9 \U0001f600", 'two\nlines, a "quote" and \0', "half a pair: \ud83d"])
def test_each_line_is_one_object(text: str) -> None:
    words = [sys.executable, "-c", _LOG, ascii(text)]
    lines = subprocess.run(words, capture_output=True, check=True).stderr.splitlines()
    (line,) = map(json.loads, lines)
    assert line["message"] == text
    assert line.items() >= {"level": "info", "service": "gateway", "logger": "x", "cost": 0.25, "key": None}.items()
