"""Exit of vLLM's engine core when the LLM service is killed. Without it the core keeps running and holds GPU memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from typing import Final

__all__ = ["PARENT_VARIABLE", "exit_with_parent"]

# Environment variable with the process id of the LLM service. Processes that others start with vLLM do not have it.
PARENT_VARIABLE: Final = "FOVEA_VLLM_PARENT"


def exit_with_parent() -> None:
    """Makes this process exit when its parent does, if the parent is the LLM service; otherwise does nothing."""
    parent = multiprocessing.parent_process()
    if parent is None or str(parent.pid) != os.environ.get(PARENT_VARIABLE):
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="parent", daemon=True).start()
