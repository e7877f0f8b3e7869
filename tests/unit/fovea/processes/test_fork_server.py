"""The fork server that a process forks from itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# A process of its own: pytest has threads, and its fork server may run already.
PROGRAM = """
import asyncio, os, signal, sys, threading
import psutil
from fovea.processes.fork_server import fork_now
from fovea.processes.worker_pool import WorkerPool
from tests import worker_tasks

worker_tasks.shared = "imported once"
if "threads" in sys.argv:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
fork_now("tests.worker_tasks")

async def main():
    async with WorkerPool(worker_tasks.do, size=2, initialize=worker_tasks.initialize) as pool:
        family = psutil.Process().children(recursive=True)
        for process in family:
            process.send_signal(signal.SIGTERM)  # as a service manager does
        print((await pool.run(("shared", None), timeout_s=60))[0], flush=True)
        print(*(process.pid for process in family), flush=True)
        os._exit(0)  # the kernel ends the workers, and the fork server finds that nobody needs it

asyncio.run(main())
"""


def test_a_process_with_threads_is_not_forked() -> None:
    """A fork would have copied one thread, with locks of the others in whatever state."""
    command = [sys.executable, "-c", PROGRAM, "threads"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] != "imported once"


def test_workers_share_what_the_process_had_and_end_with_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # returns when the last process of the family has closed its output
    assert done.returncode == 0, done.stderr
    shared, pids = done.stdout.splitlines()
    assert shared == "imported once"
    assert len(pids.split()) >= 3  # the fork server, the resource tracker, two workers
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())  # the folder of the fork server's socket is gone, too
