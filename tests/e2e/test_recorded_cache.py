"""Cached values of earlier commits: the gateway serves the same answers from them, or does not use them.

The entries of earlier commits are not signed, so the gateway does not use them as they are. The values in them are
signed here, because gateways of several commits share values once all of them sign.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from redis import Redis

from fovea.processes.stack import Stack, free_port
from fovea.telemetry import FailureKind
from fovea.v1 import encoder_pb2
from gateway.cache.base import Level
from gateway.cache.value_keys import ValueKeys
from tests.contract.comparison import assert_alike
from tests.contract.recordings import COMMITS, Recording, Recordings, stable
from tests.e2e.conftest import STARTUP_S, Client
from tests.lab_stack import lab_stack
from tests.redis_server import RedisServer

# Activation maps have several entries of one level, which cannot be told apart by their keys.
CASES = [(commit, case) for commit in COMMITS for case in Recordings.of(commit).cases if case != "activation_maps"]
FAILURES = f'fovea_failures_total{{kind="{FailureKind.CACHE_ENTRY}"}} '


@dataclass(frozen=True)
class Gateway:
    """A gateway of this tree with a cache in Redis."""

    http: httpx.Client
    redis: Redis
    metrics: str
    keys: ValueKeys

    def ask(self, recording: Recording, **fields: object) -> dict[str, Any]:
        body = {**recording.body, **fields}
        response = self.http.post(recording.path, json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def fill(self, values: Mapping[str, bytes], *, signed: bool = True) -> None:
        """Replaces all entries of the cache; without `signed` the values are the entries."""
        self.redis.flushall()
        for key, value in values.items():
            self.redis.set(key, self.keys.seal(level(key), key, value) if signed else value)

    def names(self) -> list[str]:
        """Keys of all entries of the cache."""
        return [key.decode() for key in self.redis.keys("*")]

    @property
    def unreadable_entries(self) -> float:
        """Number of entries so far that could not be read."""
        lines = self.http.get(f"http://{self.metrics}/metrics").text.splitlines()
        return sum(float(line.removeprefix(FAILURES)) for line in lines if line.startswith(FAILURES))


@pytest.fixture(scope="module")
def gateway(stack: Stack, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    key_file = folder / "cache.key"
    key_file.write_text(secrets.token_hex(32))
    metrics = f"127.0.0.1:{free_port()}"
    flags = ["--redis-url", redis_server.url, "--cache-key-file", str(key_file), "--metrics-listen", metrics]
    own = lab_stack(folder / "log", gateway=flags)
    own.encoder_address, own.llm_address = stack.encoder_address, stack.llm_address
    try:
        own.start("gateway")
        own.wait_ready(STARTUP_S)
        with Redis.from_url(redis_server.url) as redis, Client(own.url).http as http:
            yield Gateway(http, redis, metrics, ValueKeys.from_file(str(key_file)))
    finally:
        own.stop()


def level(key: str) -> Level:
    name = key.split(":")[2]
    assert name == "answer" or name == "visual_tokens"
    return name


def recorded_value(entry: bytes) -> bytes:
    """Value in an entry of a commit that wrote a CRC-32 before it."""
    value = entry[4:]
    assert zlib.crc32(value).to_bytes(4, "big") == entry[:4]
    return value


def told_by_both(answer: dict[str, Any]) -> dict[str, Any]:
    """What an answer from an earlier entry can tell too: not which part of the images was seen."""
    usage = {name: value for name, value in answer["usage"].items() if name != "viewed"}
    told = {**answer, "usage": usage}
    if "explain" in answer:
        told["explain"] = {name: value for name, value in answer["explain"].items() if name != "viewed"}
    return told


def read(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Answer, finish reason, explanation and numbers of tokens, without the cost of this call."""
    fields = stable(answer)
    usage = {name: value for name, value in fields["usage"].items() if name != "wire_bytes"}
    return {**fields, "usage": usage}


@pytest.mark.parametrize("commit", COMMITS)
def test_no_entry_of_another_request_is_served(gateway: Gateway, commit: str) -> None:
    """All cases are about the same image, and most ask the same question."""
    recordings = [Recordings.of(commit).read(case) for case in Recordings.of(commit).cases]
    entries = {key: entry for recording in recordings for key, entry in recording.cache.items()}
    gateway.fill({key: recorded_value(entry) for key, entry in entries.items()})
    for recording in recordings:
        assert_alike(read(gateway.ask(recording)), read(gateway.ask(recording, cache="bypass")))


@pytest.mark.parametrize(("commit", "case"), CASES)
def test_an_entry_under_the_key_of_this_tree_is_the_answer_or_a_counted_miss(
    gateway: Gateway, commit: str, case: str
) -> None:
    recording = Recordings.of(commit).read(case)
    gateway.fill({})
    want = read(gateway.ask(recording))
    earlier = {level(key): recorded_value(entry) for key, entry in recording.cache.items()}
    for key in [key for key in gateway.names() if level(key) in earlier]:
        before = gateway.unreadable_entries
        gateway.fill({key: earlier[level(key)]})
        answer = gateway.ask(recording)
        assert_alike(read(answer), told_by_both(want))
        is_hit = answer.get("cache", {}).get(level(key)) == "hit"
        assert is_hit or "cache" not in answer or gateway.unreadable_entries > before


@pytest.mark.parametrize("value", [b"", b"{}", b"\x0a\x03abc", b'{"answer": "yes"}'])
@pytest.mark.parametrize("named", ["answer", "visual_tokens"])
def test_an_entry_of_another_form_is_a_counted_miss(gateway: Gateway, named: str, value: bytes) -> None:
    recording = Recordings.of(COMMITS[0]).read("defaults")
    gateway.fill({})
    want = read(gateway.ask(recording))
    (key,) = [key for key in gateway.names() if level(key) == named]
    before = gateway.unreadable_entries
    gateway.fill({key: value})
    answer = gateway.ask(recording)
    assert answer["cache"][named] == "miss"
    assert read(answer) == want
    assert gateway.unreadable_entries == before + 1


@pytest.mark.parametrize("named", ["answer", "visual_tokens"])
def test_an_entry_that_is_not_signed_is_a_counted_miss(gateway: Gateway, named: str) -> None:
    """Whoever can write to Redis cannot write answers: the entry is the right one, but for its signature."""
    recording = Recordings.of(COMMITS[0]).read("defaults")
    gateway.fill({})
    want = read(gateway.ask(recording))
    (key,) = [key for key in gateway.names() if level(key) == named]
    before = gateway.unreadable_entries
    (entry,) = [entry for recorded, entry in recording.cache.items() if level(recorded) == named]
    gateway.fill({key: entry}, signed=False)
    answer = gateway.ask(recording)
    assert answer["cache"][named] == "miss"
    assert read(answer) == want
    assert gateway.unreadable_entries == before + 1


def test_visual_tokens_that_the_llm_service_refuses_are_encoded_again(gateway: Gateway) -> None:
    """Signed by a gateway, but broken: one client waits a little longer, and none gets an error."""
    recording = Recordings.of(COMMITS[0]).read("defaults")
    gateway.fill({})
    want = read(gateway.ask(recording))
    (key,) = [key for key in gateway.names() if level(key) == "visual_tokens"]
    value = gateway.keys.open("visual_tokens", key, gateway.redis.get(key))
    assert value is not None
    broken = encoder_pb2.EncodeResponse.FromString(value)
    broken.visual_tokens[0].features.crc32 ^= 1
    before = gateway.unreadable_entries
    gateway.fill({key: broken.SerializeToString()})
    answer = gateway.ask(recording)
    assert read(answer) == want
    assert answer["cache"]["visual_tokens"] == "miss"
    assert gateway.unreadable_entries == before + 1
    assert gateway.ask(recording, max_tokens=5)["cache"]["visual_tokens"] == "hit"
