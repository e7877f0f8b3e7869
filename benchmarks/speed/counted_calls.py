"""`python counted_calls.py FILE MODULE ARGUMENTS`: runs a server, and counts the function calls of its event loop.

SIGUSR1 begins a count, SIGUSR2 ends it and writes the number into FILE. Calls of Python functions and of functions in C
count alike. The number depends on the code and its libraries, and hardly on the machine or on what else it does.
"""

from __future__ import annotations

import cProfile
import runpy
import signal
import sys
from pathlib import Path


def _main() -> None:
    file, module = Path(sys.argv[1]), sys.argv[2]
    profile = cProfile.Profile()

    def begin(*_: object) -> None:
        profile.clear()
        profile.enable()

    def end(*_: object) -> None:
        profile.disable()
        written = file.with_suffix(".part")
        written.write_text(str(sum(entry.callcount for entry in profile.getstats())))
        written.rename(file)

    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
