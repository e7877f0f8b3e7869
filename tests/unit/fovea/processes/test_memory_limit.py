"""The limit on the growth of a process, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the private memory of a process")

SCRIPT = """
from fovea.processes.memory_limit import growth_limited
held = bytearray(200 * 2**20)  # what was there before does not count
with growth_limited(64 * 2**20):
    small = bytearray(32 * 2**20)
    try:
        bytearray(64 * 2**20)
    except MemoryError:
        print("refused")
large = bytearray(128 * 2**20)
print("allocated")
"""


def test_growth_is_refused_beyond_the_limit_and_allowed_again_after_it() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["refused", "allocated"]
