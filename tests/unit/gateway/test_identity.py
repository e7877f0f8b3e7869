"""API keys at the gateway: who gets in, what others get, and what the log says about each request."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from prometheus_client import REGISTRY
from pydantic import ValidationError
from starlette.routing import BaseRoute, Route

from fovea.api_keys.key_lines import new_key
from fovea.client import AnswerError
from fovea.client import ask as ask_gateway
from fovea.errors import InternalError
from gateway.http import surfaces
from gateway.settings import GatewaySettings
from tests.unit.gateway.conftest import Gateway, StartGateway, ask, failures, png
from tests.unit.gateway.gateway_process import gateway_process
from tests.unit.gateway.services import ScriptedEncoder, ScriptedLLM, serve

OPEN_PATHS = {
    *("/", "/health", "/healthz", "/readyz", "/openapi.json"),
    *("/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"),
}


def add_key(path: Path, name: str, **options: Any) -> dict[str, str]:
    """Adds a key to a file, and returns the header with it."""
    key, line = new_key(name, **options)
    with path.open("a") as file:
        file.write(line.line + "\n")
    return {"authorization": f"Bearer {key}"}


def read(path: Path) -> str:
    return path.read_text()


def write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.touch()
    return path


@pytest.fixture
def start_with_keys(start_gateway: StartGateway, keys: Path) -> StartGateway:
    async def start(**settings: Any) -> Gateway:
        return await start_gateway(keys_file=str(keys), **settings)

    return start


def all_routes() -> list[BaseRoute]:
    return [route for router in surfaces.routers() for route in router.routes]


def test_every_route_is_under_v1_or_known_to_be_open() -> None:
    paths = {route.path if isinstance(route, Route) else str(route) for route in all_routes()}
    paths = {path for path in paths if not path.startswith(("/v1/", "/page/"))}  # the page at / has files
    assert paths == OPEN_PATHS - {"/openapi.json"}


async def test_every_path_of_the_api_needs_a_key_and_no_other(
    start_with_keys: StartGateway,
) -> None:
    gateway = await start_with_keys()
    asked = 0
    for route in all_routes():
        assert isinstance(route, Route)
        for method in route.methods or {"GET"}:
            path = re.sub(r"\{.*?\}", "x", route.path)
            response = await gateway.http.request(method, path)
            is_open = route.path in OPEN_PATHS or route.path.startswith("/page/")
            assert (response.status_code == 401) != is_open, path
            asked += response.status_code == 401
    assert asked >= 6
    assert (await gateway.http.get("/openapi.json")).status_code == 200
    for path in ("/v1", "/v1/", "/v1/nothing", "/v1%2Fanswer", "/%76%31/answer", "/v1//answer"):
        assert (await gateway.http.post(path, json=ask())).status_code == 401, path
    for path in ("//v1/answer", "/V1/answer", "/./v1/answer", "/v1.5/answer"):  # paths that do not exist
        assert (await gateway.http.post(path, json=ask())).status_code in (401, 404), path
    assert not gateway.encoder.calls


async def test_a_refusal_is_openais_and_the_same_for_a_missing_and_a_wrong_key(
    start_with_keys: StartGateway, keys: Path
) -> None:
    gateway = await start_with_keys()
    right = add_key(keys, "alice")["authorization"]
    bodies = []
    labels = {"method": "POST /v1/answer", "code": "invalid_api_key"}
    before = REGISTRY.get_sample_value("fovea_requests_total", labels) or 0
    for value in (None, "", "Bearer ", f"{right}x", right.replace("Bearer", "Basic"), right[7:], "Bearer \xe9"):
        headers = {} if value is None else {"authorization": value.encode("latin-1")}
        response = await gateway.http.post("/v1/answer", json=ask(), headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert "retry-after" not in response.headers
        bodies.append(response.text)
    assert len(set(bodies)) == 1
    error = json.loads(bodies[0])["error"]
    assert (error["code"], error["type"], error["param"]) == ("invalid_api_key", "invalid_request_error", None)
    assert REGISTRY.get_sample_value("fovea_requests_total", labels) == before + 7
    assert (await gateway.http.post("/v1/answer", json=ask(), headers={"authorization": right})).status_code == 200


async def test_a_request_without_a_key_is_refused_before_its_body_is_read(
    start_with_keys: StartGateway,
) -> None:
    gateway = await start_with_keys()
    messages: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/answer",
        "raw_path": b"/v1/answer",
        "query_string": b"",
        "headers": [(b"content-length", b"1000")],
        "client": ("127.0.0.1", 1),
        "scheme": "http",
        "root_path": "",
        "server": ("127.0.0.1", 80),
    }
    await gateway.app(scope, receive, send)
    assert messages[0]["status"] == 401


async def test_keys_come_and_go_while_the_gateway_runs(start_with_keys: StartGateway, keys: Path) -> None:
    gateway = await start_with_keys()
    alice = add_key(keys, "alice")

    async def status() -> int:
        return (await gateway.http.get("/v1/models", headers=alice)).status_code

    assert await status() == 200
    good = read(keys)
    broken = failures("credentials")
    write(keys, "alice " + alice["authorization"])  # a key in the place of its digest
    assert [await status(), await status()] == [200, 200]
    assert failures("credentials") == broken + 1
    write(keys, "# nobody\n")
    assert await status() == 401
    write(keys, good)
    assert await status() == 200


async def test_the_description_of_the_api_declares_keys_where_they_are_needed(
    start_with_keys: StartGateway, gateway: Gateway
) -> None:
    with_keys = (await (await start_with_keys()).http.get("/openapi.json")).json()
    assert with_keys["components"]["securitySchemes"] == {"api_key": {"type": "http", "scheme": "bearer"}}
    for path, operations in with_keys["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) == path.startswith("/v1/")
            assert ("401" in operation["responses"]) == path.startswith("/v1/")
    without = (await gateway.http.get("/openapi.json")).json()
    assert "securitySchemes" not in without["components"]


async def test_tenants_of_keys_salt_the_caches(
    start_with_keys: StartGateway, keys: Path, start_gateway: StartGateway
) -> None:
    gateway = await start_with_keys()
    alice, bob, carol = (
        add_key(keys, "alice", tenant="acme"), add_key(keys, "bob", tenant="acme"), add_key(keys, "carol")
    )  # fmt: skip

    async def lookup(headers: dict[str, str]) -> str:
        response = await gateway.http.post("/v1/answer", json=ask(), headers=headers)
        return str(response.json()["cache"]["answer"])

    assert [await lookup(headers) for headers in (alice, bob, carol, carol)] == ["miss", "hit", "miss", "hit"]
    assert [call.cache_salt for call in gateway.encoder.calls] == ["acme", "carol"]
    anonymous = await start_gateway()
    await anonymous.answer()
    assert anonymous.encoder.calls[-1].cache_salt == ""


# Addresses


@pytest.mark.parametrize("listen", ["0.0.0.0:8000", "[::]:8000", "192.0.2.1:8000", "gateway.example:8000"])
def test_other_machines_are_served_with_keys_or_on_request_only(
    listen: str, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        GatewaySettings.from_command_line(["--model", "m", "--listen", listen])
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert f"--listen {listen} serves other machines" in message
    assert "--keys-file FILE" in message
    assert "--allow-anonymous" in message
    GatewaySettings.from_command_line(["--model", "m", "--listen", listen, "--allow-anonymous"])
    GatewaySettings.from_command_line(["--model", "m", "--listen", listen, "--keys-file", str(keys)])


@pytest.mark.parametrize("listen", ["127.0.0.1:8000", "127.8.0.1:80", "[::1]:8000", "localhost:8000", "LOCALHOST:1"])
def test_loopback_needs_neither(listen: str) -> None:
    assert GatewaySettings(model="m", listen=listen).listen == listen


def test_keys_and_everyone_exclude_each_other(keys: Path) -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        GatewaySettings(model="m", keys_file=str(keys), allow_anonymous=True)


# The process, over a socket


class Process:
    """`python -m gateway` with scripted services, and the lines of its log."""

    def __init__(self, url: str, log: asyncio.StreamReader) -> None:
        self.url = url
        self._log = log

    async def audit(self, count: int) -> list[dict[str, Any]]:
        """The next lines of the audit log."""
        lines = []
        while len(lines) < count:
            line = json.loads(await self._log.readline())
            if line["logger"] == "gateway.audit":
                lines.append(line)
        return lines


@pytest.fixture
async def process(llava: Path, clip: Path, keys: Path) -> Any:
    servers = await serve(ScriptedEncoder()), await serve(ScriptedLLM())
    targets = ("--encoder", f"127.0.0.1:{servers[0].port}", "--llm", f"127.0.0.1:{servers[1].port}")
    flags = ("--keys-file", str(keys), "--served-model-name", "tiny")
    async with gateway_process(llava, clip, *targets, *flags) as (url, _, log):
        yield Process(url, log)
    await asyncio.gather(*(server.grpc.stop(0) for server in servers))


@pytest.mark.slow
async def test_openais_client_with_a_key_and_with_a_revoked_one(process: Process, keys: Path) -> None:
    headers = add_key(keys, "alice")
    client = openai.AsyncOpenAI(
        base_url=f"{process.url}/v1", api_key=headers["authorization"][7:], max_retries=0, timeout=30
    )
    async with client:
        assert [model.id async for model in client.models.list()] == ["tiny"]
        messages: Any = [{"role": "user", "content": "What is red?"}]
        answer = await client.chat.completions.create(model="tiny", messages=messages)
        assert answer.choices[0].message.content
        write(keys, "")
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.chat.completions.create(model="tiny", messages=messages)
    assert refused.value.code == "invalid_api_key"
    assert [(line["key"], line["status"], line["route"]) for line in await process.audit(3)] == [
        ("alice", 200, "/v1/models"),
        ("alice", 200, "/v1/chat/completions"),
        (None, 401, "/v1/chat/completions"),
    ]


@pytest.mark.slow
async def test_our_client_with_and_without_a_key(process: Process, keys: Path) -> None:
    key = add_key(keys, "alice")["authorization"][7:]
    answer = await asyncio.to_thread(ask_gateway, process.url, png(), "what?", api_key=key)
    assert answer["answer"]
    with pytest.raises(AnswerError, match=r"no accepted API key.*\(status 401\)"):
        await asyncio.to_thread(ask_gateway, process.url, png(), "what?")


# Audit log


@pytest.fixture
def audited(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    caplog.set_level(logging.INFO, logger="gateway.audit")

    def lines() -> list[dict[str, Any]]:
        return [vars(record)["fields"] for record in caplog.records if record.name == "gateway.audit"]

    return lines


async def test_an_audit_line_has_client_outcome_and_costs(
    start_with_keys: StartGateway, keys: Path, audited: Callable[[], list[dict[str, Any]]]
) -> None:
    gateway = await start_with_keys()
    alice = add_key(keys, "alice", tenant="acme")
    for body in (ask(), ask(), ask(stream=True, cache="bypass")):
        response = await gateway.http.post("/v1/answer", json=body, headers=alice)
        assert response.status_code == 200
    usage = (await gateway.http.post("/v1/answer", json=ask(), headers=alice)).json()["usage"]
    lines = audited()
    common = {
        "key": "alice",
        "tenant": "acme",
        "method": "POST",
        "route": "/v1/answer",
        "status": 200,
        "outcome": "ok",
        "images": 1,
        "videos": 0,
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "visual_tokens": usage["visual_tokens_kept"],
    }
    for line, cache in zip(lines, ["miss", "hit", "skip", "hit"], strict=True):
        assert line.items() >= common.items()
        assert line["cache"] == cache
        assert line["seconds"] > 0
    await gateway.http.post("/v1/explain", json={**ask(), "format": "json"}, headers=alice)
    assert audited()[-1].items() >= {"route": "/v1/explain", "images": 1, "visual_tokens": 3}.items()


async def test_audit_lines_are_written_whatever_the_level_of_the_log_is(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    caplog.handler.setLevel(logging.NOTSET)
    await gateway.answer()
    assert [record.name for record in caplog.records] == ["gateway.audit"]


async def test_refused_requests_have_an_audit_line_too(
    start_with_keys: StartGateway, keys: Path, audited: Callable[[], list[dict[str, Any]]]
) -> None:
    gateway = await start_with_keys()
    alice = add_key(keys, "alice")
    await gateway.http.post("/v1/answer", json=ask())
    await gateway.http.post("/v1/answer", json=ask(temperature=9), headers=alice)
    await gateway.http.get("/v1/nothing", headers=alice)
    await gateway.http.get("/healthz")
    assert [(line["key"], line["route"], line["status"], line["outcome"]) for line in audited()] == [
        (None, "/v1/answer", 401, "invalid_api_key"),
        ("alice", "/v1/answer", 422, "invalid_request"),
        ("alice", None, 404, "not_found"),
    ]


async def test_each_request_has_one_line_in_the_audit_log_or_the_access_log(
    start_with_keys: StartGateway, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_with_keys()
    alice = add_key(keys, "alice")
    with caplog.at_level(logging.INFO):
        caplog.clear()
        await gateway.http.post("/v1/answer", json=ask())
        await gateway.http.post("/v1/answer", json=ask(temperature=9), headers=alice)
        await gateway.http.get("/openapi.json")
    lines = [(record.name, record.getMessage().split()[2]) for record in caplog.records]
    access, audit = "gateway.http.request_context", "gateway.audit"
    assert [line for line in lines if line[0] in (access, audit)] == [(audit, "401"), (audit, "422"), (access, "200")]


async def test_a_stream_that_fails_reports_at_its_end(
    gateway: Gateway, audited: Callable[[], list[dict[str, Any]]]
) -> None:
    gateway.llm.late_error = InternalError("broken")
    response = await gateway.http.post("/v1/answer", json=ask(stream=True))
    assert "event: error" in response.text
    (line,) = audited()
    assert line.items() >= {"key": "anonymous", "tenant": "", "status": 200, "outcome": "internal_error"}.items()
    assert line["completion_tokens"] is None


async def test_no_line_has_a_key_or_what_the_client_sent(
    start_with_keys: StartGateway, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    gateway = await start_with_keys()
    alice = add_key(keys, "alice")
    await gateway.http.post("/v1/answer?secret-query", json=ask("secret question"), headers=alice)
    await gateway.http.post("/v1/secret-path", headers={"authorization": "Bearer secret-key"})
    text = "".join(
        f"{record.getMessage()} {vars(record)}" for record in caplog.records if record.name.startswith("gateway")
    )
    assert "secret" not in text
    assert alice["authorization"][7:] not in text
