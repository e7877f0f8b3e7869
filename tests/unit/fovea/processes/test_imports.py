"""Imports of large packages; in processes of their own, since what they freeze stays frozen."""

from __future__ import annotations

import subprocess
import sys

import pytest

COLLECTED_AGAIN = """
import gc
from fovea.processes.imports import large_imports
try:
    with large_imports():
        made = [[] for _ in range(5000)]
        assert not gc.isenabled()
        {inside}
except ImportError:
    pass
assert gc.isenabled()
assert not any(thing is made for thing in gc.get_objects())
garbage = []
garbage.append(garbage)
del garbage
assert gc.collect() >= 1
"""


@pytest.mark.parametrize("inside", ["pass", "import none_such"])
def test_collections_leave_out_what_an_import_made_and_go_on(inside: str) -> None:
    done = subprocess.run([sys.executable, "-c", COLLECTED_AGAIN.format(inside=inside)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
