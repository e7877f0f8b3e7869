"""Outages of the services and of Redis, and their end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fovea.processes.stack import Stack
from tests.e2e.conftest import STARTUP_S, Client, Pictures
from tests.lab_stack import lab_stack
from tests.redis_server import RedisServer

QUESTION = "Is there a red star?"


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Stack]:
    """A stack of its own, on a real Redis."""
    log = tmp_path_factory.mktemp("fragile") / "log"
    key_file = log.with_name("cache.key")
    key_file.write_text(secrets.token_hex(32))
    with lab_stack(log, gateway=["--redis-url", redis_server.url, "--cache-key-file", str(key_file)]) as running:
        running.wait_ready(STARTUP_S)
        yield running


@pytest.fixture
def fragile_client(fragile: Stack) -> Iterator[Client]:
    client = Client(fragile.url)
    with client.http:
        yield client


def ask_until_answered(client: Client, picture: bytes, **fields: Any) -> dict[str, Any]:
    """Asks until there is an answer: again after each 503, for a minute."""
    deadline = time.monotonic() + 60
    while (response := client.post(picture, QUESTION, **fields)).status_code == 503:
        assert time.monotonic() < deadline, response.text
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize(("service", "named"), [("encoder_service", "encoder"), ("llm_service", "LLM")])
def test_a_service_that_is_down_is_a_503_except_for_cached_answers_and_its_return_is_noticed(
    fragile: Stack, fragile_client: Client, pictures: Pictures, service: str, named: str
) -> None:
    known, picture = pictures.fresh(), pictures.fresh()
    ask_until_answered(fragile_client, known)
    fragile.stop(service)
    response = fragile_client.post(picture, QUESTION)
    assert response.status_code == 503, response.text
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["code"] == "unavailable"
    assert named in response.json()["error"]["message"]
    assert "127.0.0.1" not in response.text
    assert fragile_client.ask(known, QUESTION)["cache"]["answer"] == "hit"
    readiness = fragile_client.http.get("/readyz")
    assert readiness.status_code == 503
    assert named.lower() in readiness.text.lower()
    assert fragile_client.http.get("/healthz").status_code == 200

    fragile.start(service)
    fragile.wait_ready(STARTUP_S)
    assert ask_until_answered(fragile_client, picture)["answer"] in ("yes", "no")


def test_two_gateways_share_what_redis_holds(
    fragile: Stack, fragile_client: Client, pictures: Pictures, tmp_path: Path, redis_server: RedisServer
) -> None:
    picture = pictures.fresh()
    ask_until_answered(fragile_client, picture)
    other = lab_stack(tmp_path / "log", gateway=fragile.flags["gateway"])
    other.encoder_address, other.llm_address = fragile.encoder_address, fragile.llm_address
    other.start("gateway")
    try:
        other.wait_ready(STARTUP_S)
        second = Client(other.url)
        with second.http:
            assert second.ask(picture, QUESTION)["cache"]["answer"] == "hit"
            assert second.ask(picture, QUESTION, max_tokens=9)["cache"]["visual_tokens"] == "hit"
    finally:
        other.stop()


def test_redis_down_means_slower_never_an_error(
    fragile_client: Client, pictures: Pictures, redis_server: RedisServer
) -> None:
    picture = pictures.fresh()
    redis_server.stop()
    try:
        answers = [ask_until_answered(fragile_client, picture) for _ in range(3)]
        assert len({answer["answer"] for answer in answers}) == 1
    finally:
        redis_server.start()
    deadline = time.monotonic() + 60
    while ask_until_answered(fragile_client, picture)["cache"]["answer"] != "hit":
        assert time.monotonic() < deadline, "the gateway never went back to Redis"


def test_the_cache_forgets_what_another_checkpoint_said(
    fragile: Stack, fragile_client: Client, pictures: Pictures
) -> None:
    """A service that comes back with other settings has other fingerprints, so nothing stale is served."""
    picture = pictures.fresh()
    ask_until_answered(fragile_client, picture)
    fragile.stop("llm_service")
    deadline = time.monotonic() + 60
    while fragile_client.http.get("/readyz").status_code == 200:
        assert time.monotonic() < deadline, "the gateway never noticed that the LLM service is gone"
    fragile.flags = {**fragile.flags, "llm_service": ["--dtype", "bfloat16"]}
    fragile.start("llm_service")
    fragile.wait_ready(STARTUP_S)
    assert ask_until_answered(fragile_client, picture)["cache"]["answer"] == "miss"
