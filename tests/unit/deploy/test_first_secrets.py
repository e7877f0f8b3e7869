"""deploy/first_secrets.sh as the compose files run it, with folders in the place of volumes."""

from __future__ import annotations

import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fovea.api_keys.key_file import AcceptedKeys
from fovea.cli.program import main
from gateway.cache.redis_connection import RedisAccess, connection_pool
from gateway.cache.value_keys import ValueKeys
from tests.redis_server import RedisServer

ROOT = Path(__file__).parents[3]


class Volumes:
    """Volumes of a gateway and its Redis."""

    def __init__(self, folder: Path) -> None:
        self.gateway = folder / "secrets"
        self.redis = folder / "redis-secrets"
        for one in (self.gateway, self.redis, folder / "bin"):
            one.mkdir()
        program = folder / "bin" / "fovea"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m fovea.cli "$@"\n')
        program.chmod(0o755)
        self._path = f"{program.parent}:/usr/bin:/bin"

    def start(self, *, redis: bool = True) -> str:
        """Runs the script as at a start of the containers; returns its log."""
        command = [str(ROOT / "deploy" / "first_secrets.sh"), str(self.gateway)]
        environment = {"PATH": self._path, "PYTHONPATH": str(ROOT)}
        command += [str(self.redis)] if redis else []
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def read(self) -> dict[str, str]:
        """Contents of all files."""
        return {str(path): path.read_text() for folder in (self.gateway, self.redis) for path in folder.iterdir()}


@pytest.fixture
def volumes(tmp_path: Path) -> Volumes:
    return Volumes(tmp_path)


async def test_the_gateway_and_redis_take_what_the_first_start_makes(volumes: Volumes) -> None:
    log = volumes.start()
    key = (volumes.gateway / "default.key").read_text().strip()
    client = AcceptedKeys(str(volumes.gateway / "keys")).key_of(f"Bearer {key}")
    assert client is not None
    assert client.name == "default"
    ValueKeys.from_file(str(volumes.gateway / "cache.key"))
    password = volumes.gateway / "redis.password"
    config = (volumes.redis / "redis.conf").read_text().split()
    with RedisServer() as server:
        assert server.command("CONFIG", "SET", config[0], config[1]) == b"+OK\r\n"
        assert server.command("PING").startswith(b"-NOAUTH")
        pool = connection_pool(
            RedisAccess(server.url, password_file=str(password)), timeout_s=5, max_connections=1, max_reply_bytes=100
        )
        connection = await pool.get_connection()
        await connection.send_command("PING")
        assert await connection.read_response() == b"PONG"
        await connection.disconnect()
    secrets = [key, password.read_text(), (volumes.gateway / "cache.key").read_text()]
    assert len(set(secrets)) == 3
    assert not [secret for secret in secrets if secret in log]
    assert {path.name for path in volumes.redis.iterdir()} == {"redis.conf"}


def test_only_the_user_of_the_containers_reads_them(volumes: Volumes) -> None:
    volumes.start()
    for path in (*volumes.gateway.iterdir(), *volumes.redis.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_second_start_keeps_them(volumes: Volumes) -> None:
    volumes.start()
    first = volumes.read()
    assert volumes.start() == ""
    assert volumes.read() == first


def test_a_revoked_key_stays_revoked(volumes: Volumes) -> None:
    volumes.start()
    assert main(["keys", "revoke", "default", "--file", str(volumes.gateway / "keys")]) == 0
    volumes.start()
    key = (volumes.gateway / "default.key").read_text().strip()
    assert AcceptedKeys(str(volumes.gateway / "keys")).key_of(f"Bearer {key}") is None


def test_a_start_that_was_interrupted_is_completed(volumes: Volumes) -> None:
    for name in ("keys.new", "default.key", "cache.key.new", "redis.password.new"):
        (volumes.gateway / name).write_text("cut of")
    volumes.start()
    key = (volumes.gateway / "default.key").read_text().strip()
    assert AcceptedKeys(str(volumes.gateway / "keys")).key_of(f"Bearer {key}") is not None
    assert len((volumes.gateway / "cache.key").read_text()) == 64
    assert not list(volumes.gateway.glob("*.new"))


def test_without_redis_there_is_only_an_api_key(volumes: Volumes) -> None:
    volumes.start(redis=False)
    assert {path.name for path in volumes.gateway.iterdir()} == {"keys", "default.key"}
    assert not list(volumes.redis.iterdir())
