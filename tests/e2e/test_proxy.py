"""deploy/proxy/nginx.conf in a real nginx, in front of gateways and, for what a gateway must get, of plain servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from benchmarks.checkpoints.tiny.tokenizers_only import write_clip, write_llava
from fovea.client import AnswerError, Client
from fovea.processes.stack import Stack, free_port
from gateway.settings import GatewaySettings
from tests.documented import ROOT
from tests.lab_stack import ENVIRONMENT
from tests.nginx import Nginx, directives, find_nginx
from tests.unit.gateway.conftest import ask
from tests.unit.gateway.services import ScriptedEncoder, ScriptedLLM, serve

STARTUP_S = 60
QUESTIONS_OF_AN_ADDRESS = 100  # of one gateway in a minute
KEY = "Bearer fovea-any"
PAGE_FILES = sum(path.is_file() for path in (ROOT / "gateway" / "http" / "page").rglob("*"))
FLAGS = ["--trusted-proxies", "127.0.0.1", "--requests-per-minute", str(QUESTIONS_OF_AN_ADDRESS)]

needs_nginx = pytest.mark.skipif(find_nginx() is None, reason="no nginx on this machine (Debian: nginx-light)")


class Gateways:
    """Two gateways as processes, in front of the same scripted services."""

    def __init__(self, stacks: list[Stack], llm: ScriptedLLM) -> None:
        self.stacks = stacks
        self.addresses = [stack.listen for stack in stacks]
        self.llm = llm


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateways(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateways]:
    folder = tmp_path_factory.mktemp("gateways")
    llava, clip = write_llava(folder / "tiny-llava", "byte_level"), write_clip(folder / "tiny-clip")
    encoder, llm = ScriptedEncoder(), ScriptedLLM()
    servers = await serve(encoder), await serve(llm)
    stacks = [_gateway(llava, clip, servers[0].port, servers[1].port, folder / "log") for _ in range(2)]
    try:
        for stack in stacks:
            stack.start("gateway")
        for stack in stacks:
            await asyncio.to_thread(stack.wait_ready, STARTUP_S)
        yield Gateways(stacks, llm)
    finally:
        for stack in stacks:
            await asyncio.to_thread(stack.stop)
        await asyncio.gather(*(server.grpc.stop(0) for server in servers))


def _gateway(llava: Path, clip: Path, encoder_port: int, llm_port: int, log: Path) -> Stack:
    stack = Stack(
        str(llava),
        str(clip),
        listen=f"127.0.0.1:{free_port()}",
        flags={"gateway": FLAGS},
        environment=ENVIRONMENT,
        log_to=log,
    )
    stack.encoder_address, stack.llm_address = f"127.0.0.1:{encoder_port}", f"127.0.0.1:{llm_port}"
    return stack


class Upstream:
    """A plain HTTP server in the place of a gateway; records requests, then does `reply`."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.arrived = asyncio.Semaphore(0)
        self.address = ""

    async def reply(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                pairs = [line.split(": ", 1) for line in lines]
                headers = {name.lower(): value for name, value in pairs}
                assert len(headers) == len(pairs), "a header was sent twice"
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append((first, headers, body))
                self.arrived.release()
                await self.reply(writer)
                if headers.get("connection") == "close":
                    return
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


class ClosingUpstream(Upstream):
    """Reads a request and closes the connection, as a gateway that is killed while it computes."""

    async def reply(self, writer: asyncio.StreamWriter) -> None:
        writer.close()


class HoldingUpstream(Upstream):
    """Answers no request before `released` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()

    async def reply(self, writer: asyncio.StreamWriter) -> None:
        await self.released.wait()
        await super().reply(writer)


@asynccontextmanager
async def listening(*upstreams: Upstream) -> AsyncIterator[list[str]]:
    """Addresses of servers of `upstreams`."""
    servers = [await asyncio.start_server(one.serve, "127.0.0.1", 0) for one in upstreams]
    try:
        yield [f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
    finally:
        for server in servers:
            server.close()


StartProxy = Callable[..., Awaitable[tuple[Nginx, httpx.AsyncClient]]]


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(tmp_path: Path) -> AsyncIterator[StartProxy]:
    """Function that starts nginx in front of some addresses; returns it and a client of it."""
    async with AsyncExitStack() as stack:

        async def start(*addresses: str, **options: Any) -> tuple[Nginx, httpx.AsyncClient]:
            nginx = stack.enter_context(Nginx(tmp_path, *addresses, **options))
            client = httpx.AsyncClient(base_url=nginx.url, verify=nginx.trust, timeout=60, trust_env=False)
            return nginx, await stack.enter_async_context(client)

        yield start


async def until_closed(nginx: Nginx, *pieces: bytes) -> bytes:
    """What nginx sends to a client that sends `pieces` and nothing more, until the connection is closed or reset."""
    reader, writer = await asyncio.open_connection(nginx.host, nginx.port, ssl=nginx.trust)
    received = b""
    with contextlib.suppress(ConnectionResetError):
        for piece in pieces:
            writer.write(piece)
        while piece := await reader.read(2**16):
            received += piece
    writer.close()
    return received


pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs_nginx]


async def test_an_answer_comes_over_tls_with_the_clients_request_id(gateways: Gateways, proxy: StartProxy) -> None:
    nginx, http = await proxy(*gateways.addresses)
    response = await http.post("/v1/answer", json=ask(shade=1), headers={"x-request-id": "mine.1"})
    assert response.status_code == 200, response.text
    assert response.json()["answer"].startswith("red ")
    assert response.headers["x-request-id"] == "mine.1"
    assert "max-age" in response.headers["strict-transport-security"]
    assert (await http.get("/docs")).status_code == 200
    assert (await http.get("/docs/swagger-ui-bundle.js")).status_code == 200
    assert nginx.requests()[0]["request_id"] == "mine.1"


@pytest.mark.parametrize("path", ["/healthz", "/health"])
async def test_liveness_is_answered_under_both_paths_and_not_logged(
    path: str, gateways: Gateways, proxy: StartProxy
) -> None:
    nginx, http = await proxy(*gateways.addresses)
    response = await http.get(path)
    assert (response.status_code, response.json()) == (200, {"status": "ok"}), response.text
    assert (await http.head(path)).status_code == 200
    assert not nginx.requests()


async def test_http_2_is_offered_and_nothing_older_than_tls_1_2(gateways: Gateways, proxy: StartProxy) -> None:
    nginx, _ = await proxy(*gateways.addresses)
    nginx.trust.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection(nginx.host, nginx.port, ssl=nginx.trust)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    writer.close()
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        nginx.trust.minimum_version, nginx.trust.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    nginx.trust.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="protocol version"):
        await asyncio.open_connection(nginx.host, nginx.port, ssl=nginx.trust)


async def test_another_name_is_refused_in_the_handshake(gateways: Gateways, proxy: StartProxy) -> None:
    nginx, _ = await proxy(*gateways.addresses)
    with pytest.raises(ssl.SSLError, match="unrecognized name"):
        await asyncio.open_connection(nginx.host, nginx.port, ssl=nginx.trust, server_hostname="other.example.org")


async def test_a_client_is_told_that_the_proxy_serves_other_names(gateways: Gateways, proxy: StartProxy) -> None:
    nginx, _ = await proxy(*gateways.addresses)
    says = "it serves other names; use the one of its certificate"
    with Client(f"https://127.0.0.1:{nginx.port}") as client, pytest.raises(AnswerError, match=says):
        await asyncio.to_thread(client.models)


async def test_a_stream_arrives_piece_by_piece(gateways: Gateways, proxy: StartProxy) -> None:
    _, http = await proxy(*gateways.addresses)
    gateways.llm.gate.shut()
    try:
        async with http.stream("POST", "/v1/answer", json=ask(shade=2, stream=True)) as response:
            pieces = response.aiter_text()
            first = await anext(pieces)
            assert "event: token" in first
            assert "event: done" not in first
            gateways.llm.gate.open()
            rest = "".join([piece async for piece in pieces])
            assert "event: done" in rest
    finally:
        gateways.llm.gate.open()


async def test_a_body_over_the_limit_is_refused_by_the_proxy_and_one_at_the_limit_is_not(
    gateways: Gateways, proxy: StartProxy
) -> None:
    nginx, http = await proxy(*gateways.addresses)
    limit = GatewaySettings(model="m").max_body_bytes
    within, beyond = [
        await http.post("/v1/answer", content=b" " * size, headers={"content-type": "application/json"})
        for size in (limit, limit + 1)
    ]
    assert within.status_code == 400
    assert beyond.status_code == 413
    assert beyond.json()["error"]["code"] == "too_large"
    assert f"{limit:,} bytes" in beyond.json()["error"]["message"]
    assert [bool(request["gateway"]) for request in nginx.requests()] == [True, False]


async def test_slow_headers_and_slow_bodies_are_cut_off(gateways: Gateways, proxy: StartProxy) -> None:
    # The same limits, in less time: what counts is that they end the connection.
    changes = [("client_header_timeout 10s", "client_header_timeout 1s"), ("body_timeout 10s", "body_timeout 1s")]
    nginx, _ = await proxy(*gateways.addresses, changes=changes)
    head = b"POST /v1/answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
    received = await asyncio.gather(
        until_closed(nginx), until_closed(nginx, head), until_closed(nginx, head + b"\r\n", b"{")
    )
    assert received == [b"", b"", b""]
    assert not any(request["gateway"] for request in nginx.requests())


async def test_what_a_gateway_believes_is_set_by_the_proxy(proxy: StartProxy) -> None:
    upstream = Upstream()
    async with listening(upstream) as addresses:
        _, http = await proxy(*addresses)
        forged = {
            "x-forwarded-for": "203.0.113.7",
            "x-forwarded-proto": "http",
            "forwarded": "for=203.0.113.7",
            "x-request-id": "no id",
            "authorization": KEY,
        }
        assert (await http.post("/v1/answer", content=b"{}", headers=forged)).status_code == 200
    ((line, headers, body),) = upstream.requests
    assert (line, body) == ("POST /v1/answer HTTP/1.1", b"{}")
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "https"
    assert "forwarded" not in headers
    assert len(headers["x-request-id"]) == 32
    assert headers["host"] == "localhost"
    assert headers["authorization"] == KEY


async def test_the_gateway_limits_addresses_and_not_what_they_claim(gateways: Gateways, proxy: StartProxy) -> None:
    nginx, _ = await proxy(gateways.addresses[0], changes=[("rate=20r/s", "rate=1000r/s")])

    async def accepted(address: str, number: int) -> int:
        """Number of questions from this address that are answered before one is refused, of at most `number`."""
        transport = httpx.AsyncHTTPTransport(verify=nginx.trust, local_address=address)
        async with httpx.AsyncClient(base_url=nginx.url, transport=transport) as http:
            for i in range(number):
                headers = {"x-forwarded-for": f"203.0.113.{i}"}
                response = await http.post("/v1/answer", json=ask(), headers=headers)
                if response.status_code == 429:
                    return i
                assert response.status_code == 200
            return number

    most = QUESTIONS_OF_AN_ADDRESS
    assert most <= await accepted("127.0.0.3", 2 * most) < 2 * most, "the window slides, so it may be a few more"
    assert await accepted("127.0.0.4", 1) == 1


async def test_the_connection_to_a_gateway_is_kept(proxy: StartProxy) -> None:
    upstream = Upstream()
    connections = 0
    handle = upstream.serve

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await handle(reader, writer)

    upstream.serve = counted  # type: ignore[method-assign]
    async with listening(upstream) as addresses:
        _, http = await proxy(*addresses)  # one client connection, so one worker
        for _ in range(4):
            assert (await http.post("/v1/answer", content=b"{}")).status_code == 200
    assert connections == 1
    assert len(upstream.requests) == 4


async def test_requests_go_on_when_one_of_two_gateways_is_killed(gateways: Gateways, proxy: StartProxy) -> None:
    nginx, http = await proxy(*gateways.addresses)
    for shade in range(10, 16):
        assert (await http.post("/v1/answer", json=ask(shade=shade))).status_code == 200
    ended = gateways.stacks[0].processes["gateway"]
    ended.kill()
    ended.wait()
    gateways.stacks[0].processes.clear()
    try:
        for shade in range(20, 40):
            assert (await http.post("/v1/answer", json=ask(shade=shade))).status_code == 200
    finally:
        gateways.stacks[0].start("gateway")
        await asyncio.to_thread(gateways.stacks[0].wait_ready, STARTUP_S)
    used = [request["gateway"] for request in nginx.requests()]
    assert set(used[:6]) == set(gateways.addresses)
    assert ", ".join(gateways.addresses) in used[6:], "none was sent to the one that was killed"


async def test_a_post_that_was_sent_is_not_sent_again(proxy: StartProxy) -> None:
    upstreams = ClosingUpstream(), ClosingUpstream()
    async with listening(*upstreams) as addresses:
        _, http = await proxy(*addresses)
        response = await http.post("/v1/answer", content=b"{}")
        assert sum(len(one.requests) for one in upstreams) == 1
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "unavailable"
    assert response.headers["retry-after"] == "1"


async def test_one_address_may_hold_so_many_requests(proxy: StartProxy) -> None:
    upstream = HoldingUpstream()
    (most,) = {int(value.split()[1]) for value in directives("limit_conn") if value.startswith("client_connections")}
    async with listening(upstream) as addresses:
        _, http = await proxy(*addresses)
        held = [asyncio.create_task(http.post("/v1/answer", content=b"{}")) for _ in range(most)]
        for _ in range(most):
            await upstream.arrived.acquire()
        refused = await http.get("/healthz")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert refused.json()["error"]["retry_after_s"] == 1
        upstream.released.set()
        assert {response.status_code for response in await asyncio.gather(*held)} == {200}
        assert (await http.get("/healthz")).status_code == 200


async def test_one_address_may_send_so_many_requests_at_once(proxy: StartProxy) -> None:
    upstream = Upstream()
    async with listening(upstream) as addresses:
        _, http = await proxy(*addresses, changes=[("rate=20r/s", "rate=1r/m")])  # so that no time passes meanwhile
        statuses = [(await http.get("/healthz")).status_code for _ in range(43)]
    assert statuses == [200] * 41 + [429] * 2


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/readyz",
        "/health/x",
        "/healthzz",
        "/page",
        "/v2/answer",
        "/docs/../metrics",
        "/page/../metrics",
        "/page/%2e%2e/metrics",
        "/_error",
    ],
)
async def test_clients_reach_the_api_alone(path: str, proxy: StartProxy) -> None:
    upstream = Upstream()
    async with listening(upstream) as addresses:
        _, http = await proxy(*addresses)
        response = await http.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"
    assert not upstream.requests


async def test_the_page_and_its_files_pass_as_the_gateway_sends_them(gateways: Gateways, proxy: StartProxy) -> None:
    _, http = await proxy(*gateways.addresses)
    page = await http.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    files = [f"/{name}" for name in re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)] + ["/page/samples/easy.png"]
    assert {Path(file).suffix for file in files} == {".js", ".css", ".png"}
    async with httpx.AsyncClient(base_url=gateways.stacks[0].url, trust_env=False) as direct:
        for path in ("/", *files):
            through, own = await http.get(path), await direct.get(path)
            assert (through.status_code, through.content) == (200, own.content)
            for name in ("content-security-policy", "permissions-policy", "cache-control", "etag", "content-type"):
                assert through.headers.get_list(name) == own.headers.get_list(name) != [], name
            unchanged = await http.get(path, headers={"if-none-match": through.headers["etag"]})
            assert unchanged.status_code == 304
    assert (await http.get("/page/nothing.js")).status_code == 404


async def test_a_browser_may_load_the_page_twice_at_once_and_then_ask(proxy: StartProxy) -> None:
    upstream = Upstream()
    async with listening(upstream) as addresses:
        _, http = await proxy(*addresses, changes=[("rate=20r/s", "rate=1r/m")])  # so that no time passes meanwhile
        assert {(await http.get(f"/page/{number}.js")).status_code for number in range(2 * PAGE_FILES)} == {200}
        assert (await http.post("/v1/answer", content=b"{}")).status_code == 200


@pytest.mark.parametrize("path", ["/", "/page/main.js"])
async def test_nothing_is_sent_to_the_page(path: str, proxy: StartProxy) -> None:
    upstream = Upstream()
    async with listening(upstream) as addresses:
        _, http = await proxy(*addresses)
        response = await http.post(path, content=b"{}")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    assert response.json()["error"]["code"] == "method_not_allowed"
    assert not upstream.requests


@pytest.mark.parametrize("name", [Nginx.host, "another.example.org"])
async def test_plain_http_and_garbage_get_an_error_of_the_api(name: str, proxy: StartProxy) -> None:
    nginx, _ = await proxy("127.0.0.1:1")
    async with httpx.AsyncClient(trust_env=False) as http:
        plain = await http.get(nginx.url.replace("https", "http"), headers={"host": name})
    garbage = await until_closed(nginx, b"(nothing) / HTTP/1.1\r\n\r\n")
    assert plain.status_code == 400
    assert plain.json()["error"]["code"] == "malformed_request"
    assert garbage.startswith(b"HTTP/1.1 400")
    assert json.loads(garbage.partition(b"\r\n\r\n")[2])["error"]["code"] == "malformed_request"
