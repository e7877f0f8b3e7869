"""The doctor's look at Redis: with the password and the authority that the gateway has."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from fovea.cli import main
from fovea.doctor.finding import Level
from fovea.doctor.redis import redis
from fovea.processes.stack import free_port
from tests.certificates import Authority
from tests.plain_gateway import PlainGateway
from tests.redis_server import RedisServer
from tests.tls_proxy import tls_proxy


def test_redis_is_asked_with_its_password_which_is_not_shown(gateway: PlainGateway, tmp_path: Path) -> None:
    assert redis(None).level is Level.OK
    with RedisServer("--requirepass", "s3cret") as server:
        address = server.url.partition("://")[2]
        assert redis(f"redis://:s3cret@{address}").level is Level.OK
        for url, says in ((f"redis://{address}", "NOAUTH"), (f"redis://:wr0ng@{address}", "WRONGPASS")):
            found = redis(url)
            assert found.level is Level.PROBLEM
            assert says in found.text
            assert "--redis-password-file" in found.advice
            assert "wr0ng" not in found.text + found.advice
    gateway.answers({})
    for url, says in (
        (f"redis://127.0.0.1:{free_port()}/0", "connection refused"),
        (f"redis://{gateway.url.removeprefix('http://')}", "is no Redis"),
        (f"rediss://{gateway.url.removeprefix('http://')}", "no TLS with"),
        ("http://127.0.0.1", "its URL is not accepted"),
        ("redis://h:port", "its URL is not accepted"),
    ):
        found = redis(url)
        assert (found.level, says in found.text) == (Level.PROBLEM, True), found


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text("s3cret\n")
    return str(path)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis with the password of `password_file`."""
    with RedisServer("--requirepass", "s3cret") as server:
        yield server


def test_the_password_of_a_file_is_that_of_the_gateway(server: RedisServer, password_file: str) -> None:
    assert redis(server.url, password_file=password_file).level is Level.OK
    found = redis(server.url, password_file=f"{password_file}.none")
    assert (found.level, "cannot be read from" in found.text) == (Level.PROBLEM, True)


@pytest.mark.parametrize("given", ["file", "variables"])
def test_the_doctor_has_the_password_of_the_gateways_settings(
    given: str,
    server: RedisServer,
    password_file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["doctor", "--listen", f"127.0.0.1:{free_port()}"]
    if given == "file":
        config = tmp_path / "fovea.toml"
        config.write_text(f"[gateway]\nredis_url = '{server.url}'\nredis_password_file = '{password_file}'\n")
        words += ["--config", str(config)]
    else:
        monkeypatch.setenv("GATEWAY_REDIS_URL", server.url)
        monkeypatch.setenv("GATEWAY_REDIS_PASSWORD_FILE", password_file)
    main(words)
    assert f"ok     Redis        127.0.0.1:{server.port} answers\n" in capsys.readouterr().out


async def test_the_authority_of_its_certificate_may_be_a_file(
    server: RedisServer, password_file: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    async with tls_proxy(authority.issue("redis", "localhost"), server.port) as port:
        url = f"rediss://localhost:{port}"
        found = await asyncio.to_thread(redis, url, password_file=password_file, tls_ca=authority.ca)
        assert found.level is Level.OK
        found = await asyncio.to_thread(redis, url, password_file=password_file)
        assert (found.level, "no TLS with" in found.text) == (Level.PROBLEM, True)
        for path, reason in ((password_file, "it is no PEM file"), (f"{password_file}.none", "No such file")):
            found = await asyncio.to_thread(redis, url, password_file=password_file, tls_ca=path)
            assert (found.level, reason in found.text) == (Level.PROBLEM, True)
