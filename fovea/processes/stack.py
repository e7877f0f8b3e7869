"""Gateway, encoder service and LLM service as three processes on this machine, started and stopped together."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx

from fovea.processes.log_reasons import describe_status, last_reason
from fovea.processes.readiness import readiness_checks, refused_default, refused_token, token_advice
from fovea.processes.worker_process import end_with_parent
from fovea.rpc.server import split_address

__all__ = [
    "SERVICES",
    "SERVICE_NAMES",
    "Stack",
    "StackError",
    "any_certificate",
    "free_port",
    "local_url",
]

SERVICES: Final = ("encoder_service", "llm_service", "gateway")
SERVICE_NAMES: Final = {"encoder_service": "encoder service", "llm_service": "LLM service", "gateway": "gateway"}
"""Names of the services in messages."""

# Addresses to connect to where a server listens on all of them.
_LOOPBACK: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104
_POLL_S: Final = 0.1
# Longer than the drain of any service, so that requests in progress end within the drain.
_STOP_TIMEOUT_S: Final = 40.0


class StackError(RuntimeError):
    """A service ended by itself, did not become ready in time, or cannot be started."""


def _passive_openmp() -> dict[str, str]:
    """Environment of services on one machine, where idle OpenMP threads must not spin on cores that others need."""
    return {} if "GOMP_SPINCOUNT" in os.environ else {"OMP_WAIT_POLICY": "PASSIVE"}


def _safe_path() -> dict[str, str]:
    """Environment in which no file or folder of the working directory hides a package: `python -m` looks there first.

    In the root of a checkout it is empty, because the packages may be nowhere else.
    """
    here = Path("fovea/processes/stack.py")
    return {} if here.is_file() and here.samefile(__file__) else {"PYTHONSAFEPATH": "1"}


def free_port() -> int:
    """Number of a TCP port that is free on the loopback interface at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def local_url(listen: str, *, tls: bool = False) -> str:
    """Base URL, for this machine, of a gateway that listens on host:port; https with `tls`."""
    host, _, port = listen.rpartition(":")
    return f"{'https' if tls else 'http'}://{_LOOPBACK.get(host, host)}:{port}"


def any_certificate() -> ssl.SSLContext:
    """TLS context that verifies nothing, to ask whether a gateway is ready.

    Its certificate names the host of its clients, mostly not the loopback address. A request with this context may
    carry no secret.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@dataclass
class Stack:
    """The three services as child processes, which end with this process.

    Args:
        model: checkpoint directory or hub id for all three services.
        text_tower: CLIP checkpoint for encoder service and gateway; None for the family's default.
        listen: host:port of the gateway.
        name: served model name; None for the default of each service.
        flags: further flags by service, for example {"gateway": ["--redis-url", "redis://..."]}.
        environment: further environment variables of all three services.
        log_to: file for the logs of all services; None for stderr of this process.

    Attributes:
        processes: running services by name.
        encoder_address, llm_address: host:port of encoder service and LLM service.

    Raises:
        StackError: `listen` is not of the form host:port.
    """

    model: str
    text_tower: str | None = None
    listen: str = "127.0.0.1:8000"
    name: str | None = None
    flags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    log_to: Path | None = None

    def __post_init__(self) -> None:
        try:
            split_address(self.listen)
        except ValueError as error:
            raise StackError(str(error)) from error
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log_offsets: dict[str, int] = {}
        self.encoder_address = f"127.0.0.1:{free_port()}"
        self.llm_address = f"127.0.0.1:{free_port()}"

    @property
    def url(self) -> str:
        """Base URL of the gateway on this machine: https if the gateway has a certificate."""
        in_flags = any(word.partition("=")[0] == "--tls-cert" for word in self.flags.get("gateway", ()))
        return local_url(self.listen, tls=in_flags or bool(self.variables.get("GATEWAY_TLS_CERT")))

    @property
    def variables(self) -> dict[str, str]:
        """Environment of the services."""
        return {**_passive_openmp(), **_safe_path(), **os.environ, **self.environment}

    def client(self, timeout_s: float) -> httpx.Client:
        """HTTP client of the gateway on this machine, for requests without a secret: no certificate is verified."""
        return httpx.Client(base_url=self.url, timeout=timeout_s, trust_env=False, verify=any_certificate())

    def settings(self, service: str) -> dict[str, str]:
        """Settings of one service that the stack determines, by the name of their flag. They override variables."""
        settings = {"model": self.model}
        if self.name is not None:
            settings["served-model-name"] = self.name
        if self.text_tower is not None and service != "llm_service":
            settings["text-tower"] = self.text_tower
        addresses = {
            "encoder_service": {"listen": self.encoder_address},
            "llm_service": {"listen": self.llm_address},
            "gateway": {"listen": self.listen, "encoder": self.encoder_address, "llm": self.llm_address},
        }
        return settings | addresses[service]

    def command(self, service: str) -> list[str]:
        """Command line of one service."""
        flags = [word for name, value in self.settings(service).items() for word in (f"--{name}", value)]
        return [sys.executable, "-m", service, *flags, *self.flags.get(service, ())]

    def start(self, *services: str) -> None:
        """Starts the named services, or all, and returns at once.

        Raises:
            StackError: the gateway's address is taken; no service was started.
            OSError: the file for the logs cannot be written.
        """
        if not services or "gateway" in services:
            self._require_free_address()
        for service in services or SERVICES:
            log = self.log_to.open("ab") if self.log_to else None
            self._log_offsets[service] = log.seek(0, os.SEEK_END) if log else 0
            try:
                self.processes[service] = subprocess.Popen(
                    self.command(service),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.variables,
                    # Ctrl-C would reach the whole foreground process group, but `stop` must end the services in order.
                    start_new_session=True,
                    preexec_fn=lambda: end_with_parent(signal.SIGTERM),
                )
            finally:
                if log:
                    log.close()

    def _require_free_address(self) -> None:
        """Checks that the gateway's address is free, because `wait_ready` would accept another gateway there."""
        host, port = split_address(self.listen)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise StackError(
                    f"cannot listen on {self.listen}: {error.strerror}; choose another with --listen HOST:PORT"
                    " (under make: LISTEN=HOST:PORT)"
                ) from error

    def check(self) -> None:
        """Checks that all services run.

        Raises:
            StackError: a service has ended by itself.
        """
        for service, reason in self.ended().items():
            raise StackError(f"{SERVICE_NAMES[service]} {reason}")

    def ended(self) -> dict[str, str]:
        """Services that have ended by themselves, and how: their status, and the last error in their log."""
        ended = {}
        for service, process in self.processes.items():
            status = process.poll()
            if status is not None:
                offset = self._log_offsets[service]
                reason = last_reason(self.log_to, service, offset) if self.log_to else None
                ended[service] = f"ended by itself with {describe_status(status)}: {reason or 'its log tells why'}"
        return ended

    def is_ready(self, timeout_s: float = 1.0) -> bool:
        """Whether the gateway reports within `timeout_s` that all three services are ready."""
        try:
            with self.client(timeout_s) as http:
                ready = http.get("/readyz")
        except httpx.TransportError:
            return False
        return ready.status_code == httpx.codes.OK

    def wait_ready(
        self,
        timeout_s: float,
        *,
        interrupted: Callable[[], bool] = lambda: False,
        on_checks: Callable[[Mapping[str, str]], object] = lambda checks: None,
    ) -> None:
        """Waits until the gateway reports that all three services are ready.

        Args:
            timeout_s: longest wait in seconds.
            interrupted: function that returns whether to stop waiting.
            on_checks: function that gets the checks of `/readyz` after each look; none while the gateway is silent.

        Raises:
            StackError: a service ended, the encoder service does not offer a default of the gateway, a service does not
                accept the gateway's bearer token, or `timeout_s` passed.
            KeyboardInterrupt: `interrupted` returned true.
        """
        deadline = time.monotonic() + timeout_s
        reason = "the gateway does not answer"
        with self.client(5) as http:
            while time.monotonic() < deadline:
                self.check()
                if interrupted():
                    raise KeyboardInterrupt
                try:
                    response = http.get("/readyz")
                    if response.status_code == httpx.codes.OK:
                        self.check()
                        on_checks(readiness_checks(response))
                        return
                    reason = response.text
                    checks = readiness_checks(response)
                    on_checks(checks)
                    # Waiting changes neither.
                    if refused := refused_default(checks):
                        raise StackError(f"not ready: {refused}")
                    if service := refused_token(checks):
                        raise StackError(f"not ready: {service} is {checks[service]}; {token_advice(service)}")
                except httpx.TransportError:
                    on_checks({})
                time.sleep(_POLL_S)
        raise StackError(f"not ready after {timeout_s:.0f} s: {reason}")

    def stop(self, *services: str, grace_s: float = _STOP_TIMEOUT_S) -> None:
        """Stops the named services, or all, with SIGTERM. The gateway ends first, because its drain needs the others.

        Args:
            services: names of services; none for all.
            grace_s: seconds from SIGTERM to SIGKILL, for services that still run.
        """
        chosen = [service for service in SERVICES if service in self.processes and service in (services or SERVICES)]
        for group in (["gateway"], ["encoder_service", "llm_service"]):
            ending = {service: self.processes.pop(service) for service in group if service in chosen}
            for process in ending.values():
                process.terminate()
            deadline = time.monotonic() + grace_s
            for process in ending.values():
                try:
                    process.wait(max(deadline - time.monotonic(), 0.1))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
