"""Projects of compose files, under a name of their own."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from fovea.processes.stack import free_port
from tests.images.engine import DOCKER, Container, docker

__all__ = ["Compose", "compose_commands"]

_UP_S = 400


def compose_commands() -> list[list[str]]:
    """Command lines of the versions of Compose that are installed, the newest last."""
    plugin = subprocess.run([DOCKER, "compose", "version"], capture_output=True, check=False).returncode == 0
    commands = [["docker-compose"]] if shutil.which("docker-compose") else []
    return [*commands, *([[DOCKER, "compose"]] if plugin else [])]


class Compose:
    """A project of compose files, whose containers and volumes are removed at the end."""

    def __init__(self, command: list[str], *files: Path, environment: dict[str, str] | None = None) -> None:
        self.name = f"fovea-test-{secrets.token_hex(4)}"
        self._command = [*command, "--project-name", self.name, *(f"--file={file}" for file in files)]
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._environment = {**os.environ, "PORT": str(port), **(environment or {})}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run("down", "--volumes", "--remove-orphans", "--timeout=5")

    def run(self, *arguments: str) -> str:
        """Standard output of a command that must succeed."""
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_UP_S,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr[-2000:]}\n{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        """Last lines of the log of each container."""
        return "\n".join(f"{one.inspect()['Name']}: {one.log()[-2000:]}" for one in self.containers(stopped=True))

    def up(self, **replicas: int) -> None:
        """Starts the project and waits for its containers that have a health check.

        Args:
            replicas: number of containers by service; one of each that is not named.
        """
        scale = [f"--scale={service}={number}" for service, number in replicas.items()]
        self.run("up", "--detach", "--no-build", *scale)
        for container in self.containers():
            if "Health" in container.state:
                container.wait_until_healthy()

    def containers(self, service: str = "", *, stopped: bool = False) -> list[Container]:
        """Containers of a service, or of all of them; `stopped`: also those that do not run."""
        labels = [f"label=com.docker.compose.project={self.name}"]
        labels += [f"label=com.docker.compose.service={service}"] if service else []
        filters = [word for label in labels for word in ("--filter", label)]
        found = docker("ps", "--quiet", "--no-trunc", *(["--all"] if stopped else []), *filters).stdout.split()
        return [Container(one) for one in found]

    def container(self, service: str) -> Container:
        """The one container of a service that runs."""
        (container,) = self.containers(service)
        return container
