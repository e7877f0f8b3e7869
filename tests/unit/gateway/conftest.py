"""Tiny tokenizers, scripted services, and a gateway in front of them."""

from __future__ import annotations

import asyncio
import base64
import os
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY

from benchmarks.checkpoints.tiny.tokenizers_only import write_clip, write_family, write_llava
from fovea.rpc.server import GrpcServer
from fovea.v1 import encoder_pb2
from gateway.app import create_app
from gateway.server.server import RestServer
from gateway.settings import GatewaySettings
from tests.unit.gateway.services import ScriptedEncoder, ScriptedLLM, serve


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llava(tmp_path_factory.mktemp("checkpoints") / "tiny-llava", "byte_level")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("checkpoints") / "tiny-clip")


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("checkpoints") / "tiny-qwen", "qwen2_5_vl")


def png(shade: int = 0) -> bytes:
    """A PNG file of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes([0, shade]))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def ask(question: str = "What colour is it?", shade: int = 0, **fields: Any) -> dict[str, Any]:
    """A JSON body."""
    return {"question": question, "image": data_url(png(shade)), **fields}


def failures(kind: str) -> float:
    return REGISTRY.get_sample_value("fovea_failures_total", {"kind": kind}) or 0.0


@dataclass
class Gateway:
    """A gateway in this process with its two services."""

    app: FastAPI
    http: httpx.AsyncClient
    encoder: ScriptedEncoder
    llm: ScriptedLLM
    servers: dict[str, GrpcServer]
    rest_server: RestServer | None = None

    def stop(self) -> None:
        """Stops the REST server, as SIGTERM does. It runs over TCP."""
        assert self.rest_server is not None
        self.rest_server.should_exit = True

    async def answer(self, **fields: Any) -> dict[str, Any]:
        """Response to `ask(**fields)`, which must succeed."""
        response = await self.http.post("/v1/answer", json=ask(**fields))
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def refused(self, status: int, body: Any = None, **fields: Any) -> dict[str, Any]:
        """Error of a request that must fail with `status`."""
        response = await self.http.post("/v1/answer", json=ask(**fields) if body is None else body)
        assert response.status_code == status, response.text
        assert response.headers["x-request-id"]
        assert set(response.json()) == {"error"}
        return dict(response.json()["error"])

    def http_from(self, address: str) -> httpx.AsyncClient:
        """HTTP client at another address."""
        transport = httpx.ASGITransport(self.app, client=(address, 1))
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30)


StartGateway = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def start_gateway(llava: Path, clip: Path) -> AsyncIterator[StartGateway]:
    """Function that starts a gateway with the given settings. All gateways share the services."""
    async with AsyncExitStack() as stack:
        encoder, llm = ScriptedEncoder(), ScriptedLLM()
        servers = {"encoder": await serve(encoder), "llm": await serve(llm)}

        async def stop_servers() -> None:
            await asyncio.gather(*(server.grpc.stop(0) for server in servers.values()))

        stack.push_async_callback(stop_servers)

        async def start(*, over_tcp: bool = False, **settings: Any) -> Gateway:
            checked = GatewaySettings(
                **{
                    "model": str(llava),
                    "text_tower": str(clip),
                    "encoder": f"127.0.0.1:{servers['encoder'].port}",
                    "llm": f"127.0.0.1:{servers['llm'].port}",
                    "listen": "127.0.0.1:0",
                    "drain_grace_s": 0,
                    **settings,
                }
            )
            app = create_app(checked)
            rest_server = None
            if over_tcp:
                rest_server = RestServer(app, checked, app.state.drain)
                http = httpx.AsyncClient(base_url=await _run(rest_server, stack), trust_env=False, verify=False)
            else:
                await stack.enter_async_context(app.router.lifespan_context(app))
                http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
            return Gateway(app, await stack.enter_async_context(http), encoder, llm, servers, rest_server)

        yield start


async def _run(server: RestServer, stack: AsyncExitStack) -> str:
    config = server.config
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()

    async def run() -> None:
        await server.main_loop()
        await server.shutdown()

    running = asyncio.create_task(run())

    async def stop() -> None:
        server.should_exit = True
        await running

    stack.push_async_callback(stop)
    return server.urls[0]


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Gateway:
    """A gateway with default settings."""
    return await start_gateway()


@pytest.fixture
async def gateway_over_tcp(start_gateway: StartGateway) -> Gateway:
    """A gateway with default settings behind its REST server."""
    return await start_gateway(over_tcp=True)


@pytest.fixture
async def video_gateway(start_gateway: StartGateway, qwen: Path) -> Gateway:
    """A gateway without a text tower, in front of services that take a video and read the language model's ids."""
    gateway = await start_gateway(model=str(qwen), text_tower="")
    tokenizer = gateway.app.state.gateway.planner.prompt_tokenizer
    gateway.encoder.info.family = gateway.llm.info.family = "qwen2_5_vl"
    gateway.encoder.info.max_videos = 1
    gateway.encoder.info.text_tokenizer = encoder_pb2.TEXT_TOKENIZER_LANGUAGE_MODEL
    gateway.llm.info.image_token_id = tokenizer.image_token_id
    gateway.llm.info.video_token_id = tokenizer.video_token_id
    return gateway
