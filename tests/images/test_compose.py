"""docker-compose.yml, started: answers, rights of its containers, crashes, stops, secrets, replicas."""

from __future__ import annotations

import httpx
import pytest

from tests.images.compose import Compose, compose_commands
from tests.images.conftest import ROOT
from tests.images.engine import Container
from tests.images.gateway import MOON, Gateway
from tests.waiting import wait_until

SERVICES = ("gateway", "encoder", "llm", "redis")
MODELS = ("encoder", "llm")
GRACE_S = 45
FILES = (
    ("docker-compose.yml",),
    ("docker-compose.yml", "deploy/gpu/compose.yml"),
    ("docker-compose.yml", "deploy/gpu/compose.yml", "deploy/gpu/vllm.compose.yml"),
    ("deploy/edge/compose.yml",),
)


@pytest.mark.parametrize("command", compose_commands(), ids=" ".join)
@pytest.mark.parametrize("files", FILES, ids="+".join)
def test_each_installed_version_of_compose_reads_the_files(command: list[str], files: tuple[str, ...]) -> None:
    Compose(command, *(ROOT / file for file in files)).run("config", "--quiet")


def test_the_demo_is_answered_with_the_first_key_and_not_without(gateway: Gateway) -> None:
    assert "pink" in gateway.ask(MOON)["answer"].lower()
    assert Gateway(gateway.url).post(MOON).status_code == httpx.codes.UNAUTHORIZED


def test_a_key_is_added_and_revoked(compose: Compose, gateway: Gateway) -> None:
    key = compose.run("run", "--rm", "-T", "keys", "add", "alice").split()[-1]
    alice = Gateway(gateway.url, key)
    wait_until(lambda: alice.post(MOON).status_code == httpx.codes.OK, 60)
    compose.run("run", "--rm", "-T", "keys", "revoke", "alice")
    wait_until(lambda: alice.post(MOON).status_code == httpx.codes.UNAUTHORIZED, 60)


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_an_ordinary_user_no_capability_and_a_root_that_nobody_writes(
    compose: Compose, service: str
) -> None:
    container = compose.container(service)
    assert container.output("id", "-u").strip() == "10001"
    status = dict(line.split(":\t", 1) for line in container.output("cat", "/proc/1/status").splitlines())
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert status["NoNewPrivs"] == "1"
    assert "Read-only file system" in container.run("touch", "/usr/x", user="0").stderr
    assert container.run("sh", "-c", "touch /tmp/x && rm /tmp/x").returncode == 0


def secrets_of(compose: Compose) -> dict[str, str]:
    gateway = compose.container("gateway")
    return {
        name: gateway.output("cat", f"/secrets/{name}").strip()
        for name in ("default.key", "cache.key", "redis.password")
    }


def test_no_secret_is_in_a_log_or_in_what_the_engine_shows(compose: Compose, gateway: Gateway) -> None:
    gateway.ask(MOON)
    shown = [f"{one.inspect()}{one.log()}" for one in compose.containers(stopped=True)]
    for name, secret in secrets_of(compose).items():
        assert len(secret) >= 32
        assert not [text for text in shown if secret in text], name


def test_redis_refuses_who_has_no_password(compose: Compose) -> None:
    assert "NOAUTH" in compose.container("redis").output("redis-cli", "get", "x")


def test_an_outage_of_redis_costs_no_answer(compose: Compose, gateway: Gateway) -> None:
    question = "How many red objects are there?"
    expected = gateway.ask(question)["answer"]
    redis = compose.container("redis")
    redis.stop(GRACE_S)
    assert gateway.ask(question)["answer"] == expected
    redis.start()
    redis.wait_until_healthy()
    wait_until(lambda: gateway.ask(question)["cache"]["answer"] == "hit", 60)


@pytest.mark.parametrize("service", SERVICES)
def test_a_crashed_container_starts_again(compose: Compose, gateway: Gateway, service: str) -> None:
    container = compose.container(service)
    restarts = container.inspect()["RestartCount"]
    container.crash()
    wait_until(lambda: container.inspect()["RestartCount"] > restarts, 60)
    container.wait_until_healthy()
    gateway.wait_until_ready()
    assert "pink" in gateway.ask(MOON, cache="bypass")["answer"].lower()


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_ends_by_itself_when_it_is_asked_to(compose: Compose, gateway: Gateway, service: str) -> None:
    container = compose.container(service)
    try:
        assert container.stop(GRACE_S) == 0, container.log()[-2000:]
    finally:
        container.start()
        container.wait_until_healthy()
    gateway.wait_until_ready()


def test_keys_and_secrets_outlast_the_containers(compose: Compose, gateway: Gateway) -> None:
    before = secrets_of(compose)
    compose.run("down")
    compose.up()
    assert secrets_of(compose) == before
    gateway.wait_until_ready()
    assert gateway.post(MOON).status_code == httpx.codes.OK


def test_no_answer_is_lost_when_one_replica_of_each_is_killed(compose: Compose, gateway: Gateway) -> None:
    number = 240
    compose.up(encoder=2, llm=2)
    victims: dict[int, Container] = {
        number // 4: compose.containers("encoder")[0],
        number // 2: compose.containers("llm")[0],
    }

    def kill(answered: int) -> None:
        if answered in victims:
            victims[answered].kill()

    try:
        questions = [f"{MOON} {'Please. ' * (index % 3)}".strip() for index in range(number)]
        statuses = gateway.statuses(questions, in_flight=8, after=kill)
        assert statuses == [httpx.codes.OK] * number
        assert [len(compose.containers(service)) for service in MODELS] == [1, 1]
    finally:
        compose.up(encoder=1, llm=1)
