"""Servers of `benchmarks.speed.gateway`, each a process of its own: gateways of one or two checkouts, the least that a
cached answer takes, and the echo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from benchmarks.harness.checkouts import code_of
from benchmarks.scaling.cpu_caps import cpu_seconds
from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.processes.stack import Stack, free_port
from fovea.processes.worker_process import end_with_parent

__all__ = ["ECHO", "LEAST", "Server", "running"]

ECHO: Final = "echo"
LEAST: Final = "least"
_TIMEOUT_S: Final = 300.0
_OFF_HUB: Final = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
_COUNTED: Final = Path(__file__).with_name("counted_calls.py")


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        name: Name of the side.
        url: Its address.
        process: Its process.
        counted: File for its number of function calls, see `counted_calls`.
    """

    name: str
    url: str
    process: subprocess.Popen[bytes]
    counted: Path

    def cpu_s(self) -> float:
        """CPU time of all its threads so far, in seconds. Needs Linux."""
        return cpu_seconds(self.process.pid)

    def begin_count(self) -> None:
        """Begins to count its function calls."""
        self.process.send_signal(signal.SIGUSR1)

    def num_calls(self) -> int:
        """Its function calls since `begin_count`."""
        self.process.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + _TIMEOUT_S
        while not self.counted.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        number = int(self.counted.read_text())
        self.counted.unlink()
        return number


@contextmanager
def running(checkouts: Mapping[str, Path], folder: Path, *, echo_bytes: int) -> Iterator[list[Server]]:
    """A gateway of each checkout, the least that a cached answer takes, and the echo last, ready. All share encoder and
    LLM service.

    Args:
        checkouts: Roots of the gateways' code by name; the services run the code of this process.
        folder: Folder for logs and counts.
        echo_bytes: Size of the responses of the echo.
    """
    model, text_tower = str(shipped_checkpoint("llava")), str(shipped_checkpoint("clip"))
    with ExitStack() as resources:
        services = Stack(model, text_tower, name="shipped", environment=_OFF_HUB, log_to=folder / "services.log")
        resources.callback(services.stop)
        services.start("encoder_service", "llm_service")
        servers, arguments = [], []
        for name, root in checkouts.items():
            gateway = Stack(model, text_tower, listen=f"127.0.0.1:{free_port()}", name="shipped")
            gateway.encoder_address, gateway.llm_address = services.encoder_address, services.llm_address
            arguments = gateway.command("gateway")[3:]
            servers.append((name, gateway.url, "/readyz", ["gateway", *arguments], root))
        for name, app in ((LEAST, "benchmarks.speed.least_answer:app"), (ECHO, "benchmarks.speed.echo:app")):
            port = free_port()
            command = ["uvicorn", app, "--port", str(port)]
            servers.append((name, f"http://127.0.0.1:{port}", "/docs", command, Path(__file__).parents[2]))
        started = []
        for name, url, path, command, root in servers:
            counted = folder / f"{name}.calls"
            environment = {
                **_OFF_HUB,
                **code_of(root),
                "ECHO_BYTES": str(echo_bytes),
                "LEAST_ANSWER": " ".join(arguments),
            }
            process = resources.enter_context(
                _process([str(_COUNTED), str(counted), *command], environment, folder / f"{name}.log")
            )
            _wait_ready(url + path, process)
            started.append(Server(name, url, process, counted))
        yield started


@contextmanager
def _process(words: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
            preexec_fn=lambda: end_with_parent(signal.SIGTERM),
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"a server ended by itself with status {process.returncode}; its log tells why")
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"a server was not ready after {_TIMEOUT_S:g} s")
