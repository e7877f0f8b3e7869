"""Limits of the embedded cache, and behaviour of the Redis cache when Redis works and fails."""

from __future__ import annotations

import asyncio
import logging
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.cache.base import MAX_VALUE_BYTES
from gateway.cache.memory import MemoryCache
from gateway.cache.redis import RedisCache
from gateway.cache.redis_client import RedisClient
from gateway.cache.redis_connection import RedisAccess
from gateway.cache.value_keys import ValueKeys
from tests.clock import Clock
from tests.redis_server import RedisServer
from tests.unit.gateway.conftest import Gateway, StartGateway, failures

KEY = "0123456789abcdef" * 4


async def test_memory_evicts_the_least_recently_used_entry() -> None:
    cache = MemoryCache(answer_bytes=3000, visual_token_bytes=0, ttl_s=10)
    for key in "ab":
        await cache.put("answer", key, bytes(1000))
    await cache.get("answer", "a")
    await cache.put("answer", "c", bytes(1000))
    assert [await cache.get("answer", key) is not None for key in "abc"] == [True, False, True]


async def test_memory_does_not_store_values_larger_than_a_level() -> None:
    cache = MemoryCache(answer_bytes=3000, visual_token_bytes=0, ttl_s=10)
    await cache.put("answer", "a", bytes(100))
    await cache.put("answer", "big", bytes(3000))
    await cache.put("visual_tokens", "v", b"")
    assert await cache.get("answer", "big") is None
    assert await cache.get("answer", "a") == bytes(100)
    assert await cache.get("visual_tokens", "v") is None


async def test_memory_entries_expire() -> None:
    clock = Clock(0.0)
    cache = MemoryCache(answer_bytes=3000, visual_token_bytes=0, ttl_s=10, clock=clock)
    await cache.put("answer", "a", b"1")
    clock.now = 9.9
    assert await cache.get("answer", "a") == b"1"
    clock.now = 10.1
    assert await cache.get("answer", "a") is None


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "cache.key"
    path.write_text(f"{KEY}\n")
    return str(path)


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    with RedisServer("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as server:
        yield server


def write(path: Path, text: str) -> None:
    path.write_text(text)


def open_cache(url: str, key_file: str, **options: Any) -> RedisCache:
    redis = RedisClient(RedisAccess(url), **{"timeout_s": 5, **options})
    return RedisCache(redis, ValueKeys.from_file(key_file), ttl_s=10)


@pytest.fixture
async def redis(server: RedisServer, key_file: str) -> AsyncIterator[RedisCache]:
    cache = open_cache(server.url, key_file)
    yield cache
    await cache.close()


async def test_redis_keeps_bytes_for_their_time(server: RedisServer, redis: RedisCache) -> None:
    value = bytes(range(256))
    await redis.put("visual_tokens", "k", value)
    assert await redis.get("visual_tokens", "k") == value
    assert await redis.get("visual_tokens", "other") is None
    remaining_ms = int(server.command("PTTL", "k").strip(b":\r\n"))
    assert 0 < remaining_ms <= 10_000


async def test_a_value_that_no_gateway_has_written_is_a_miss_and_counted(
    server: RedisServer, redis: RedisCache
) -> None:
    """A changed value, one without a tag, one of another key, and one of another level under its own key."""
    await redis.put("answer", "k", b"value")
    await redis.put("answer", "other", b"value")
    before = failures("cache_entry")
    server.command("SETRANGE", "k", "33", "X")
    assert await redis.get("answer", "k") is None
    server.command("SET", "k", "ab")
    assert await redis.get("answer", "k") is None
    server.command("COPY", "other", "k", "REPLACE")
    assert await redis.get("answer", "k") is None
    assert await redis.get("visual_tokens", "other") is None
    assert failures("cache_entry") == before + 4
    assert await redis.get("answer", "other") == b"value"


async def test_a_removed_value_is_a_miss(redis: RedisCache) -> None:
    await redis.put("answer", "k", b"value")
    await redis.delete("answer", "k")
    assert await redis.get("answer", "k") is None


async def test_a_huge_value_in_redis_is_not_read_as_a_whole(key_file: str) -> None:
    limit = MAX_VALUE_BYTES["answer"]
    with RedisServer() as server:
        redis = open_cache(server.url, key_file)
        await redis.put("answer", "largest", bytes(limit))
        await redis.put("answer", "larger", bytes(limit + 1))
        before = failures("cache_entry")
        assert len(await redis.get("answer", "largest") or b"") == limit
        assert await redis.get("answer", "larger") is None  # it was not stored
        assert failures("cache_entry") == before
        server.command("SETRANGE", "largest", "100000000", "x")
        tracemalloc.start()
        try:
            assert await redis.get("answer", "largest") is None
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert failures("cache_entry") == before + 1
        assert peak < 4 * limit
        await redis.close()


async def test_gateways_without_a_key_file_do_not_meet_in_redis(server: RedisServer) -> None:
    """They could not read each other's values, and would wait for each other's locks for nothing."""
    a, b = (RedisCache(RedisClient(RedisAccess(server.url)), ValueKeys.of_this_process(), ttl_s=10) for _ in "ab")
    before = failures("cache_entry")
    await a.put("answer", "k", b"1")
    assert await b.get("answer", "k") is None
    await b.put("answer", "k", b"2")
    assert await a.get("answer", "k") == b"1"
    assert await a.acquire("k")
    assert await b.acquire("k")
    assert failures("cache_entry") == before
    await asyncio.gather(a.close(), b.close())


async def test_a_key_is_changed_without_losing_a_value(server: RedisServer, key_file: str, tmp_path: Path) -> None:
    path, old, new = tmp_path / "own.key", KEY, "f" * 32
    write(path, old)
    a, b = open_cache(server.url, str(path)), open_cache(server.url, key_file)
    await b.put("answer", "k", b"of the old key")
    write(path, f"# in use\n{old}\n{new}\n")
    await a.put("answer", "first", b"by a")
    assert await b.get("answer", "first") == b"by a"
    write(path, f"{new}\n{old}")
    assert await a.get("answer", "k") == b"of the old key"
    await a.put("answer", "second", b"by a")
    assert await b.get("answer", "second") is None
    write(path, new)
    assert await a.get("answer", "k") is None
    assert await a.get("answer", "second") == b"by a"
    await asyncio.gather(a.close(), b.close())


async def test_refused_commands_are_all_counted_and_logged_once_a_pause(
    server: RedisServer, key_file: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(0.0)
    cache = open_cache(server.url, key_file, pause_s=2, clock=clock)
    server.command("RPUSH", "k", "a list")
    before = failures("redis")
    with caplog.at_level(logging.WARNING, "gateway.cache.redis_client"):
        for _ in range(5):
            assert await cache.get("answer", "k") is None
        clock.now = 2.0
        assert await cache.get("answer", "k") is None
    assert failures("redis") == before + 6
    assert [record.getMessage() for record in caplog.records] == ["redis refused a command: ResponseError"] * 2
    await cache.close()


async def test_a_full_redis_still_answers_reads(redis: RedisCache) -> None:
    await redis.put("answer", "small", b"1")
    before = failures("redis")
    for i in range(4):
        await redis.put("visual_tokens", f"big{i}", bytes(2**20))
    assert failures("redis") > before
    assert await redis.get("answer", "small") == b"1"


async def test_a_lock_is_exclusive_and_released_by_its_holder_only(server: RedisServer, key_file: str) -> None:
    a, b = open_cache(server.url, key_file), open_cache(server.url, key_file)
    lock = await a.acquire("k")
    assert lock is not None
    assert await b.acquire("k") is None
    assert await a.acquire("k") is None  # the lock excludes the same gateway too
    await b.release("k", "another")
    assert await b.acquire("k") is None
    await a.release("k", lock)
    assert await b.acquire("k") is not None
    lock_s = int(server.command("TTL", "k:lock").strip(b":\r\n"))
    assert 0 < lock_s <= 10
    await asyncio.gather(a.close(), b.close())


async def test_a_dead_redis_costs_one_attempt_per_pause(server: RedisServer, key_file: str) -> None:
    clock = Clock(0.0)
    cache = open_cache(server.url, key_file, pause_s=2, clock=clock)
    await cache.put("answer", "k", b"1")
    server.stop()
    before = failures("redis")
    for _ in range(5):
        assert await cache.get("answer", "k") is None
        assert await cache.acquire("k")  # without Redis the lock is granted
    assert failures("redis") == before + 1
    server.start()
    clock.now = 2.1
    await cache.put("answer", "k", b"2")
    assert await cache.get("answer", "k") == b"2"
    await cache.close()


async def test_an_unresponsive_redis_costs_one_deadline(key_file: str) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    cache = open_cache(f"redis://127.0.0.1:{port}/0", key_file, timeout_s=0.05)
    before = failures("redis")
    assert await cache.get("answer", "k") is None
    assert failures("redis") == before + 1
    await cache.close()
    listener.close()
    await listener.wait_closed()


async def test_redis_may_go_and_come_back_under_a_gateway(server: RedisServer, start_gateway: StartGateway) -> None:
    gateway = await start_gateway(redis_url=server.url)

    async def readiness() -> tuple[str, str]:
        body = (await gateway.http.get("/readyz")).json()
        return body["status"], body["checks"]["redis"]

    await gateway.answer()
    assert (await gateway.answer())["cache"]["answer"] == "hit"
    assert await readiness() == ("ready", "ok")
    server.stop()
    assert (await gateway.answer())["cache"]["answer"] == "miss"
    assert await readiness() == ("ready", "Redis does not answer; nothing is cached until it does")
    server.start()
    gateway.app.state.gateway.cache._redis._paused_until = 0.0  # ends the pause
    assert await readiness() == ("ready", "ok")
    await gateway.answer()
    assert (await gateway.answer())["cache"]["answer"] == "hit"


async def test_an_outage_of_redis_is_a_line_a_minute_and_one_at_its_end(
    server: RedisServer, key_file: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(0.0)
    cache = open_cache(server.url, key_file, pause_s=2, clock=clock)
    server.stop()
    with caplog.at_level(logging.INFO, "gateway.cache.redis_client"):
        for clock.now in range(0, 100, 4):
            await cache.get("answer", "k")
        server.start()
        clock.now = 100.0
        await cache.put("answer", "k", b"1")
        await cache.get("answer", "k")
    failed = "redis failed: ConnectionError; not used for 2 s"
    assert [record.getMessage() for record in caplog.records] == [failed, failed, "redis answers again"]
    await cache.close()


async def test_two_gateways_share_answers_and_work(
    server: RedisServer, start_gateway: StartGateway, key_file: str
) -> None:
    a = await start_gateway(redis_url=server.url, cache_key_file=key_file)
    b: Gateway = await start_gateway(redis_url=server.url, cache_key_file=key_file)
    a.encoder.gate.shut()
    first = asyncio.create_task(a.answer())
    await a.encoder.gate.reached.wait()
    second = asyncio.create_task(b.answer())
    while not b.app.state.gateway.answers._flights._flights:  # noqa: ASYNC110
        await asyncio.sleep(0)
    a.encoder.gate.open()
    answers = await asyncio.gather(first, second)
    assert [answer["cache"]["answer"] for answer in answers] == ["miss", "hit"]
    assert answers[0]["answer"] == answers[1]["answer"]
    assert len(a.encoder.calls) == len(a.llm.calls) == 1


async def test_the_lock_of_a_dead_gateway_does_not_prevent_an_answer(
    server: RedisServer, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(redis_url=server.url)
    gateway.encoder.gate.shut()
    first = asyncio.create_task(gateway.answer())
    await gateway.encoder.gate.reached.wait()
    lock = server.command("KEYS", "*:lock").split(b"\r\n")[-2].decode()
    first.cancel()
    await asyncio.wait([first])
    server.command("SET", lock, "dead", "EX", "10")
    gateway.encoder.gate.open()
    assert (await gateway.answer(timeout_s=1.0))["cache"]["answer"] == "miss"
    assert b"dead" in server.command("GET", lock)


async def test_the_second_gateway_takes_over_when_the_first_gives_up(
    server: RedisServer, start_gateway: StartGateway, key_file: str
) -> None:
    a = await start_gateway(redis_url=server.url, cache_key_file=key_file)
    b: Gateway = await start_gateway(redis_url=server.url, cache_key_file=key_file)
    a.encoder.gate.shut()
    first = asyncio.create_task(a.answer())
    await a.encoder.gate.reached.wait()
    second = asyncio.create_task(b.answer())
    while not b.app.state.gateway.answers._flights._flights:  # noqa: ASYNC110
        await asyncio.sleep(0)
    first.cancel()
    await a.encoder.cancelled.wait()
    a.encoder.gate.open()
    assert (await second)["cache"]["answer"] == "miss"
