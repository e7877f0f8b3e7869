"""Connections to Redis: passwords, TLS, and servers that answer with anything."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from fovea.rpc.credential_files import CredentialsError
from gateway.cache.redis import RedisCache
from gateway.cache.redis_client import RedisClient
from gateway.cache.redis_connection import RedisAccess, connection_pool
from gateway.cache.value_keys import ValueKeys
from tests.certificates import Authority
from tests.clock import Clock
from tests.redis_server import RedisServer
from tests.tls_proxy import tls_proxy
from tests.unit.gateway.conftest import StartGateway, failures

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis with a user `fovea`, whose password is PASSWORD, beside the default user without one."""
    with RedisServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _user(server: RedisServer) -> None:
    server.command("ACL", "SETUSER", "fovea", "reset", "on", f">{PASSWORD}", "~*", "+@all")


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "redis.password"
    path.write_text(f"{PASSWORD}\n")
    return path


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Log lines of the cache so far."""
    lines: list[str] = []
    with caplog.at_level(logging.WARNING, "gateway.cache.redis_client"):
        logger = logging.getLogger("gateway.cache.redis_client")
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        logger.addHandler(handler)
        yield lines
        logger.removeHandler(handler)


@contextlib.asynccontextmanager
async def cache_of(access: RedisAccess, **options: Any) -> AsyncIterator[RedisCache]:
    cache = RedisCache(RedisClient(access, **{"timeout_s": 5, **options}), ValueKeys.of_this_process(), ttl_s=10)
    yield cache
    await cache.close()


def write(path: Path, text: str) -> None:
    path.write_text(text)


async def works(cache: RedisCache) -> bool:
    await cache.put("answer", "k", b"value")
    return await cache.get("answer", "k") == b"value"


async def test_user_and_password_come_from_url_and_file(server: RedisServer, password_file: Path) -> None:
    url = f"redis://fovea@127.0.0.1:{server.port}/1"
    async with cache_of(RedisAccess(url, str(password_file))) as cache:
        assert await works(cache)
    assert b"name=" in server.command("CLIENT", "LIST")
    async with cache_of(RedisAccess(f"redis://fovea:correct%20horse@127.0.0.1:{server.port}")) as cache:
        assert await works(cache)


async def test_a_wrong_password_costs_a_miss_and_is_named_in_the_log_without_itself(
    server: RedisServer, password_file: Path, warnings: list[str]
) -> None:
    write(password_file, "battery staple")
    before = failures("redis")
    async with cache_of(RedisAccess(f"redis://fovea@127.0.0.1:{server.port}", str(password_file))) as cache:
        assert await cache.get("answer", "k") is None
    assert failures("redis") == before + 1
    assert warnings == ["redis failed: it does not accept the user or the password; not used for 2 s"]


async def test_a_changed_password_is_used_by_the_next_connection(
    server: RedisServer, password_file: Path, warnings: list[str]
) -> None:
    clock = Clock(0.0)
    access = RedisAccess(f"redis://fovea@127.0.0.1:{server.port}", str(password_file))
    async with cache_of(access, clock=clock) as cache:
        assert await works(cache)
        server.command("ACL", "SETUSER", "fovea", "resetpass", ">a new one")
        assert await works(cache), "an open connection stays"
        server.command("CLIENT", "KILL", "TYPE", "normal")
        assert not await works(cache)
        assert len(warnings) == 1
        write(password_file, "a new one")
        clock.now = 2.0
        assert await works(cache)


async def test_a_wrong_password_is_no_error_of_a_request(
    server: RedisServer, password_file: Path, start_gateway: StartGateway
) -> None:
    write(password_file, "battery staple")
    settings = {"redis_url": f"redis://fovea@127.0.0.1:{server.port}", "redis_password_file": str(password_file)}
    gateway = await start_gateway(**settings)
    for _ in range(2):
        assert (await gateway.answer())["cache"]["answer"] == "miss"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_tls_with_the_ca_of_a_file(server: RedisServer, authority: Authority, password_file: Path) -> None:
    async with tls_proxy(authority.issue("redis", "localhost"), server.port) as port:
        access = RedisAccess(f"rediss://fovea@localhost:{port}", str(password_file), authority.ca)
        async with cache_of(access) as cache:
            assert await works(cache)


@pytest.mark.parametrize(
    ("host", "ca", "reason"),
    [
        ("127.0.0.1", "own", "certificate is not valid for '127.0.0.1'"),
        ("localhost", "another", "certificate is not accepted"),
        ("localhost", "system", "certificate is not accepted"),
        ("localhost", "", "certificate is not accepted"),
    ],
)
async def test_a_certificate_of_another_name_or_ca_is_refused(
    server: RedisServer,
    authority: Authority,
    tmp_path_factory: pytest.TempPathFactory,
    warnings: list[str],
    host: str,
    ca: str,
    reason: str,
) -> None:
    another = Authority(tmp_path_factory.mktemp("another"))
    ca = {"own": authority.ca, "another": another.ca}.get(ca, ca)
    before = failures("redis")
    async with (
        tls_proxy(authority.issue("redis", "localhost"), server.port) as port,
        cache_of(RedisAccess(f"rediss://{host}:{port}", tls_ca=ca)) as cache,
    ):
        assert not await works(cache)
    assert failures("redis") == before + 1
    assert len(warnings) == 1
    assert reason in warnings[0]


async def test_a_renewed_ca_is_used_by_the_next_connection(server: RedisServer, tmp_path: Path) -> None:
    clock, folders = Clock(0.0), (tmp_path / "old", tmp_path / "new")
    for folder in folders:
        folder.mkdir()
    old, new = map(Authority, folders)
    trusted = tmp_path / "ca.pem"
    shutil.copy(old.ca, trusted)
    async with (
        tls_proxy(new.issue("redis", "localhost"), server.port) as port,
        cache_of(RedisAccess(f"rediss://localhost:{port}", tls_ca=str(trusted)), clock=clock) as cache,
    ):
        assert not await works(cache)
        shutil.copy(new.ca, trusted)
        clock.now = 2.0
        assert await works(cache)


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret@cache:6379",
        "redis://cache:secret@:x",
        "redis://:secret@",
        "redis://:secret@cache/x",
        "redis://cache/0?password=secret",
        "rediss://:secret@cache/0?ssl_cert_reqs=none",
        "unix://:secret@/run/redis.sock",
    ],
)
def test_a_wrong_redis_url_is_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="redis_url is not of the form") as caught:
        connection_pool(RedisAccess(url), timeout_s=1, max_connections=1, max_reply_bytes=1)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("access", "message"),
    [
        (RedisAccess("redis://:secret@cache", password_file="FILE"), "give it in one of them"),
        (RedisAccess("redis://cache", tls_ca="system"), "begins with rediss://"),
        (RedisAccess("redis://cache", password_file="EMPTY"), "does not hold one password"),
        (RedisAccess("redis://cache", password_file="NONE"), "No such file"),
        (RedisAccess("rediss://cache", tls_ca="FILE"), "CA .*FILE"),
        (RedisAccess("rediss://cache", tls_ca="NONE"), "No such file"),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_settings_that_do_not_fit_are_refused_at_the_start(
    access: RedisAccess, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text(PASSWORD)
    Path("EMPTY").write_text("\n")
    with pytest.raises(ValueError, match=message) as caught:
        connection_pool(access, timeout_s=1, max_connections=1, max_reply_bytes=1)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "# only this\n", "short", "x" * 513, "with a space " * 4, "\u00e9" * 40, "k" * 32 + "\n"]
)
def test_a_key_file_holds_keys_of_a_length(text: str, tmp_path: Path) -> None:
    path = tmp_path / "cache.key"
    path.write_text(text * (9 if text.startswith("k") else 1))
    with pytest.raises(CredentialsError, match=r"cache\.key") as caught:
        ValueKeys.from_file(str(path))
    assert len(text) < 5 or text.strip() not in str(caught.value)


MIB = 2**20
REPLIES: dict[str, Iterator[bytes] | list[bytes]] = {
    "500 MB": [b"$500000000\r\n", *[bytes(MIB)] * 500],
    "lines without end": repeat(b"+" + b"x" * 65536, 1000),
    "nested arrays": [b"*1\r\n" * 100_000],
    "many items": [b"*1000000\r\n", *[b":1\r\n" * 1000] * 1000],
    "nested items": [b"*100\r\n" * 3, b":1\r\n" * 100_000],
    "a long number": [b":" + b"9" * 5000 + b"\r\n"],
    "no number": [b":one\r\n"],
    "a negative size": [b"$-2\r\n"],
    "a negative count": [b"*-2\r\n"],
    "an unknown type": [b"%1\r\n"],
    "a push of RESP3": [b">4\r\n$6\r\nMOVING\r\n:1\r\n:1\r\n$14\r\n127.0.0.1:1234\r\n"],
    "an error without end": [b"-" + b"x" * MIB],
    "an error": [b"-" + b"\xff" * 1000 + b"\r\n"],
    "a list": [b"*1\r\n$1\r\nx\r\n"],
    "a number": [b":7\r\n"],
    "the end": [],
}


@pytest.mark.parametrize("name", REPLIES)
async def test_a_hostile_redis_costs_a_miss_and_little_memory(name: str) -> None:
    async def hostile(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while b"GETRANGE" not in (command := await reader.readuntil(b"\r\n")):
                if command == b"SETINFO\r\n":
                    writer.write(b"+OK\r\n")
            for piece in REPLIES[name]:
                writer.write(piece)
                await writer.drain()
        writer.close()

    listener = await asyncio.start_server(hostile, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    before = failures("redis") + failures("cache_entry")
    async with cache_of(RedisAccess(f"redis://127.0.0.1:{port}")) as cache:
        tracemalloc.start()
        try:
            assert await cache.get("answer", "k") is None
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert failures("redis") + failures("cache_entry") == before + 1
    assert peak < 4 * MIB
    listener.close()
    await listener.wait_closed()
