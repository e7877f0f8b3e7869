"""Memory that decoding takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["peak_bytes"]

# Prints how many bytes the process has grown by at most; getrusage would begin with what its parent has.
_SCRIPT = """
import re, sys
from fovea.errors import ServiceError
from fovea.media.images import decode
data = open(sys.argv[1], "rb").read()
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
before = peak()
try:
    decode(data, max_bytes=2**30, max_pixels=2**30)
except ServiceError:
    pass
print(peak() - before)
"""


def peak_bytes(file: Path) -> int:
    """Bytes by which a process grows that decodes or refuses an image file, beside the file itself."""
    run = subprocess.run([sys.executable, "-c", _SCRIPT, str(file)], capture_output=True, check=True)
    return int(run.stdout)
