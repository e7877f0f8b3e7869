"""Limits of a client: requests and pixels in a minute, questions in progress; in one process and in several."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits.aio.storage import memory
from PIL import Image

from fovea.api_keys.key_lines import ClientLimits
from fovea.errors import TooLarge
from gateway.access.client_limits import ClientLimiter
from gateway.access.clients import Client, client_at
from gateway.access.errors import RateLimited
from gateway.access.minute_windows import MinuteWindows
from gateway.cache.redis_client import RedisClient
from gateway.cache.redis_connection import RedisAccess
from gateway.core.encode_spec import EncodeSpec
from gateway.media.files import MediaFile, Video
from tests.clock import Clock
from tests.redis_server import RedisServer
from tests.unit.gateway.conftest import StartGateway, ask, data_url, failures
from tests.unit.gateway.test_identity import add_key

MEGA = 10**6
START = 1_000_000_020.0  # a third of a minute after its start


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Clock of the counts in memory. Their windows begin with the minutes of the clock, and no test may meet one."""
    clock = Clock(START)
    monkeypatch.setattr(memory, "time", SimpleNamespace(time=clock))
    return clock


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.command("FLUSHALL")
    return redis_server


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[RedisClient]:
    client = RedisClient(RedisAccess(server.url), timeout_s=5)
    yield client
    await client.close()


@pytest.fixture(params=["memory", "redis"])
def limiter(request: pytest.FixtureRequest) -> ClientLimiter:
    return ClientLimiter(request.getfixturevalue("redis") if request.param == "redis" else None)


def client(name: str = "alice", **limits: int) -> Client:
    return Client(name, name, ClientLimits(**limits), has_key=True)


async def asked(limiter: ClientLimiter, client: Client) -> float | None:
    """Seconds after which a refused question may be asked again; None if it was accepted."""
    try:
        async with limiter.question(client, seconds=60):
            return None
    except RateLimited as error:
        return error.retry_after_s


async def test_requests_of_each_client_are_counted_apart(limiter: ClientLimiter) -> None:
    alice, bob = client(requests_per_minute=3), client("bob", requests_per_minute=1)
    assert [await asked(limiter, alice) for _ in range(3)] == [None] * 3
    wait_s = await asked(limiter, alice)
    assert wait_s is not None
    assert 0 < wait_s <= 120
    assert await asked(limiter, bob) is None
    assert await asked(limiter, bob) is not None
    assert await asked(limiter, client_at("alice", ClientLimits(requests_per_minute=1))) is None
    assert await asked(limiter, client("carol")) is None


@given(
    limit=st.integers(1, 20),
    earlier=st.lists(st.tuples(st.floats(0, 40), st.integers(1, 20)), max_size=12),
    cost=st.integers(1, 20),
)
@settings(max_examples=300, deadline=None)
async def test_retry_after_is_when_the_window_has_room_and_not_before(
    limit: int, earlier: list[tuple[float, int]], cost: int
) -> None:
    clock, patch = Clock(START), pytest.MonkeyPatch()
    patch.setattr(memory, "time", SimpleNamespace(time=clock))
    cost = min(cost, limit)
    try:
        windows = MinuteWindows(None)

        async def spend(amount: int) -> float:
            return await windows.spend("alice", "requests", amount, limit=limit)

        for seconds, amount in earlier:
            clock.now += seconds
            await spend(min(amount, limit))
        wait_s = await spend(cost)
        if not wait_s:
            return
        before = clock.now
        clock.now = before + wait_s - 0.2
        assert wait_s < 0.3 or await spend(cost) > 0
        clock.now = before + math.ceil(wait_s)  # as the header says it
        assert await spend(cost) == 0
    finally:
        patch.undo()


async def test_retry_after_holds_in_redis(redis: RedisClient) -> None:
    limiter, alice = ClientLimiter(redis), client(requests_per_minute=5)
    for _ in range(5):
        assert await asked(limiter, alice) is None
    wait_s = await asked(limiter, alice)
    assert wait_s is not None
    (current,) = [key for key in await redis.commands.keys("fovea:limits:*") if key.endswith(b"}")]

    async def pass_time(seconds: float) -> None:
        """Shortens the life of the count in Redis, which is its time."""
        await redis.commands.pexpire(current, await redis.commands.pttl(current) - round(seconds * 1000))

    await pass_time(wait_s - 20)
    wait_s = await asked(limiter, alice)
    assert wait_s is not None
    await pass_time(math.ceil(wait_s))  # as the header says it
    assert await asked(limiter, alice) is None


async def test_pixels_are_counted_when_they_are_accepted_only(limiter: ClientLimiter) -> None:
    alice = client(megapixels_per_minute=10)
    await limiter.spend_pixels(alice, 6 * MEGA)
    with pytest.raises(RateLimited, match=r"limit of 10 megapixels per minute; the images have 5\.0"):
        await limiter.spend_pixels(alice, 5 * MEGA)
    await limiter.spend_pixels(alice, 4 * MEGA)
    await limiter.spend_pixels(alice, 0)
    with pytest.raises(RateLimited) as refused:
        await limiter.spend_pixels(alice, 1)
    assert refused.value.retry_after_s
    await limiter.spend_pixels(client(), 1000 * MEGA)


async def test_images_that_never_fit_are_too_large(limiter: ClientLimiter) -> None:
    with pytest.raises(TooLarge, match=r"the images have 50\.0 megapixels; this client's limit is 10 per minute"):
        await limiter.spend_pixels(client(megapixels_per_minute=10), 50 * MEGA)


async def test_questions_in_progress_are_limited_and_refused_ones_are_not_counted(limiter: ClientLimiter) -> None:
    alice = client(concurrency=2, requests_per_minute=3)
    async with limiter.question(alice, seconds=60), limiter.question(alice, seconds=60):
        for _ in range(5):
            assert await asked(limiter, alice) == 1.0
        assert await asked(limiter, client("bob", concurrency=1)) is None
    assert await asked(limiter, alice) is None
    wait_s = await asked(limiter, alice)  # the fourth of three requests
    assert wait_s is not None
    assert wait_s > 1
    for _ in range(3):  # refused for the requests, and then not in progress
        assert await asked(limiter, alice) != 1.0


async def test_counts_in_memory_are_bounded(clock: Clock) -> None:
    limiter = ClientLimiter()
    for number in range(5000):
        await asked(limiter, client(f"client-{number}", requests_per_minute=1))
    storage = limiter._windows._here._storage
    assert isinstance(storage, memory.MemoryStorage)
    assert len(storage.storage) == len(storage.locks) == len(storage.expirations) == 4096
    assert await asked(limiter, client("client-4999", requests_per_minute=1)) is not None
    clock.now += 200
    await asked(limiter, client("later", requests_per_minute=1))
    await asyncio.sleep(0)
    assert len(storage.storage) == 1


async def test_a_dead_gateway_frees_its_leases_when_they_expire(server: RedisServer, redis: RedisClient) -> None:
    alice = client(concurrency=1)
    dead = ClientLimiter(redis).question(alice, seconds=60)
    await dead.__aenter__()
    survivor = ClientLimiter(redis)
    assert await asked(survivor, alice) == 1.0
    (key,) = await redis.commands.keys("fovea:running:*")
    (lease,) = await redis.commands.zrange(key, 0, -1)
    assert 58 <= await redis.commands.ttl(key) <= 61
    await redis.commands.zadd(key, {lease: 1.0})  # its deadline passes
    assert await asked(survivor, alice) is None
    assert not await redis.commands.keys("fovea:running:*")
    await dead.__aexit__(None, None, None)


async def test_a_lease_lasts_until_the_deadline_of_its_question(server: RedisServer, redis: RedisClient) -> None:
    alice = client(concurrency=1)
    async with ClientLimiter(redis).question(alice, seconds=60) as lease:
        (key,) = await redis.commands.keys("fovea:running:*")
        ((_, first),) = await redis.commands.zrange(key, 0, -1, withscores=True)
        await lease.extend(600)
        ((_, extended),) = await redis.commands.zrange(key, 0, -1, withscores=True)
        assert 539 <= extended - first <= 545
        assert await redis.commands.ttl(key) > 590
        await lease.extend(5)
        ((_, shortened),) = await redis.commands.zrange(key, 0, -1, withscores=True)
        assert shortened - first < 0


# Gateways


async def test_a_question_beyond_a_limit_is_refused_before_its_body_is_read(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    headers = add_key(keys, "alice", limits=ClientLimits(requests_per_minute=1))
    gateway = await start_gateway(keys_file=str(keys), requests_per_minute=100)
    assert (await gateway.http.post("/v1/answer", json=ask(), headers=headers)).status_code == 200
    calls = len(gateway.encoder.calls)
    for body in (b"", b"{" * 1000):
        response = await gateway.http.post("/v1/answer", content=body, headers=headers)
        assert response.status_code == 429
        error = response.json()["error"]
        assert (error["code"], error["type"]) == ("rate_limited", "rate_limit_error")
        assert error["message"] == "this client is at its limit of 1 requests per minute"
        assert 1 <= int(response.headers["retry-after"]) <= 121
    assert len(gateway.encoder.calls) == calls
    bob = add_key(keys, "bob")
    for _ in range(3):
        assert (await gateway.http.post("/v1/answer", json=ask(), headers=bob)).status_code == 200


async def test_defaults_hold_for_each_address(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(requests_per_minute=1)
    for address in ("192.0.2.1", "192.0.2.2"):
        async with gateway.http_from(address) as http:
            statuses = [(await http.post("/v1/answer", json=ask())).status_code for _ in range(2)]
            assert statuses == [200, 429]


async def test_two_gateways_count_together_in_redis_and_apart_without_it(start_gateway: StartGateway) -> None:
    with RedisServer() as server:
        limits = {"requests_per_minute": 3, "concurrency_per_client": 8}
        gateways = [await start_gateway(redis_url=server.url, **limits) for _ in range(2)]

        async def statuses(count: int) -> list[int]:
            return [
                (await gateways[number % 2].http.post("/v1/answer", json=ask())).status_code for number in range(count)
            ]

        assert await statuses(6) == [200, 200, 200, 429, 429, 429]
        server.stop()
        before = failures("redis")
        # Each counts for itself, from 0: nothing is refused or fails because Redis is down.
        assert await statuses(8) == [200] * 6 + [429] * 2
        assert failures("redis") > before
        server.start()
        for gateway in gateways:
            gateway.app.state.gateway.cache._redis._paused_until = 0.0  # ends the pause
        assert await statuses(2) == [200] * 2


async def test_a_stream_is_in_progress_until_its_end(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(concurrency_per_client=1)
    gateway.llm.gate.shut()
    stream = asyncio.create_task(gateway.http.post("/v1/answer", json=ask(stream=True), timeout=30))
    await gateway.llm.gate.reached.wait()
    refused = await gateway.refused(429)
    assert refused["code"] == "rate_limited"
    assert "limit of 1 questions in progress" in refused["message"]
    gateway.llm.gate.open()
    assert (await stream).status_code == 200
    await gateway.answer()


async def test_a_lease_of_a_gateway_expires_at_the_deadline_of_the_request(
    start_gateway: StartGateway, server: RedisServer, redis: RedisClient
) -> None:
    gateway = await start_gateway(redis_url=server.url, concurrency_per_client=1)
    gateway.encoder.gate.shut()
    question = asyncio.create_task(gateway.answer(timeout_s=500))
    await gateway.encoder.gate.reached.wait()
    (key,) = await redis.commands.keys("fovea:running:*")
    assert 490 <= await redis.commands.ttl(key) <= 510
    gateway.encoder.gate.open()
    await question
    assert not await redis.commands.keys("fovea:running:*")


async def test_pixels_of_images_and_frames_are_counted_before_they_are_encoded(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(megapixels_per_minute=1)
    content = io.BytesIO()
    Image.new("L", (1000, 600)).save(content, "PNG")
    url = data_url(content.getvalue())
    body = {"question": "What?", "image": url}
    assert (await gateway.http.post("/v1/answer", json=body)).status_code == 200
    calls = len(gateway.encoder.calls)
    for _ in range(2):
        refused = await gateway.http.post("/v1/answer", json=body)
        assert refused.status_code == 429
        assert refused.json()["error"]["message"].endswith("1 megapixels per minute; the images have 0.6")
        assert refused.json()["error"]["param"] == "image"
        assert int(refused.headers["retry-after"]) >= 1
    too_large = await gateway.http.post("/v1/answer", json={"question": "What?", "images": [url, url]})
    assert too_large.status_code == 413
    assert too_large.json()["error"]["param"] == "images"
    await gateway.answer()  # one pixel, for which there is room
    assert len(gateway.encoder.calls) == calls + 1


def test_frames_of_a_list_have_pixels_and_video_files_have_none() -> None:
    frame = MediaFile.of(b"", num_pixels=7)
    spec = EncodeSpec(images=(frame,), videos=(Video(frames=(frame, frame)), Video(file=MediaFile.of(b""))))
    assert spec.num_pixels == 21
