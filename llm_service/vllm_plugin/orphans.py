"""vLLM's engine core outlives a parent that is killed, and keeps the memory of the device; ours does not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from typing import Final

__all__ = ["PARENT_VARIABLE", "end_with_parent"]

# Process id of the LLM service, in the environment of what it starts. Other users of vLLM are left alone.
PARENT_VARIABLE: Final = "FOVEA_VLLM_PARENT"


def end_with_parent() -> None:
    """In a child of the LLM service, ends the process when that is gone; elsewhere does nothing."""
    parent = multiprocessing.parent_process()
    if parent is None or str(parent.pid) != os.environ.get(PARENT_VARIABLE):
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="parent", daemon=True).start()
