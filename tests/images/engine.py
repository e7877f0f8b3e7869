"""The container engine's command line, as objects."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import Any

from tests.waiting import wait_until

__all__ = ["DOCKER", "TAG", "Container", "docker", "image"]

DOCKER = os.environ.get("DOCKER", "docker")
TAG = os.environ.get("IMAGE_TAG", "")
HEALTHY_S = 120


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A finished command of the engine, with its output."""
    done = subprocess.run([DOCKER, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done


def image(name: str) -> dict[str, Any]:
    """What the engine knows of an image."""
    (found,) = json.loads(docker("image", "inspect", name).stdout)
    return dict(found)


@dataclass(frozen=True)
class Container:
    """A container, by its id."""

    id: str

    def inspect(self) -> dict[str, Any]:
        """What the engine knows of it."""
        (found,) = json.loads(docker("inspect", self.id).stdout)
        return dict(found)

    @property
    def state(self) -> dict[str, Any]:
        return dict(self.inspect()["State"])

    @property
    def is_healthy(self) -> bool:
        state = self.state
        return bool(state["Running"]) and state.get("Health", {}).get("Status") == "healthy"

    def wait_until_healthy(self) -> None:
        wait_until(lambda: self.is_healthy, HEALTHY_S, lambda: f"{self.state}\n{self.log()[-3000:]}")

    def run(self, *command: str, user: str = "") -> subprocess.CompletedProcess[str]:
        """A command inside it, finished."""
        return docker("exec", *(["--user", user] if user else []), self.id, *command, check=False)

    def output(self, *command: str) -> str:
        """Standard output of a command inside it that must succeed."""
        done = self.run(*command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def log(self) -> str:
        done = docker("logs", self.id)
        return done.stdout + done.stderr

    def crash(self) -> None:
        """Kills its main process as the kernel would, so that the engine sees a crash and not a stop."""
        os.kill(int(self.state["Pid"]), signal.SIGKILL)

    def kill(self) -> None:
        """Kills it for good."""
        docker("kill", self.id)

    def stop(self, grace_s: int) -> int:
        """Exit status after SIGTERM; 137 if it had to be killed after `grace_s` seconds."""
        docker("stop", "--time", str(grace_s), self.id)
        return int(self.state["ExitCode"])

    def start(self) -> None:
        docker("start", self.id)
