"""Addresses of the services: forms that gRPC can call are accepted, and others end the gateway at start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fovea.rpc.server import GrpcServer
from gateway.settings import GatewaySettings
from tests.unit.gateway.conftest import StartGateway
from tests.unit.gateway.services import ScriptedLLM, serve


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture
async def server() -> AsyncIterator[GrpcServer]:
    server = await serve(ScriptedLLM())
    yield server
    await server.grpc.stop(0)


@pytest.mark.parametrize(
    "form",
    [
        "127.0.0.1:{port}",
        "127.0.0.1:{port} ",
        "localhost:{port}",
        "dns:127.0.0.1:{port}",
        "dns:///127.0.0.1:{port}",
        "ipv4:127.0.0.1:{port}",
        "ipv4:127.0.0.1:1,127.0.0.1:{port}",
        "ipv4:///127.0.0.1:{port},",
    ],
)
async def test_an_accepted_form_reaches_the_service(start_gateway: StartGateway, server: GrpcServer, form: str) -> None:
    gateway = await start_gateway(llm=form.format(port=server.port))
    assert (await gateway.answer())["answer"].startswith("red")


@pytest.mark.parametrize(
    "target",
    [
        "llm.example.org:50052",
        "fovea_llm-1:50052",
        "llm.fovea.svc.cluster.local.:50052",
        "[::1]:50052",
        "[fe80::1%eth0]:50052",
        "dns:///[::1]:50052",
        "dns://10.0.0.10/llm:50052",
        "ipv6:[::1]:50052",
        "ipv6:[fd00::1]:50052,[fd00::2]:50052",
        "ipv6:%5Bfd00::1%5D:50052",
        "unix:llm.sock",
        "unix:///run/fovea/llm.sock",
    ],
)
def test_a_form_of_grpc_is_accepted(target: str) -> None:
    settings = GatewaySettings.from_command_line(["--model", "m", "--llm", target, "--encoder", target])
    assert (settings.llm, settings.encoder) == (target, target)


@pytest.mark.parametrize(
    "target",
    [
        "",
        "127.0.0.1",
        "llm.example.org",
        ":50052",
        "llm:",
        "llm:0",
        "llm:99999",
        "llm:https",
        "http://127.0.0.1:50052",
        "tcp://10.0.0.1:50052",
        "user@llm:50052",
        "llm:50052/",
        "::1:50052",
        "[llm]:50052",
        "localhost:50052,localhost:50053",
        "dns:50052",
        "dns:///llm",
        "dns://llm:50052",
        "dns:///llm:50052,llm:50053",
        "ipv4:",
        "ipv4:10.0.0.1",
        "ipv4:localhost:50052",
        "ipv4:10.0.0.1:50052, 10.0.0.2:50052",
        "ipv4:[::1]:50052",
        "ipv6:::1:50052",
        "ipv6:10.0.0.1:50052",
        "unix:",
    ],
)
@pytest.mark.parametrize("leg", ["encoder", "llm"])
def test_another_form_ends_the_gateway_with_the_accepted_ones(
    target: str, leg: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        GatewaySettings.from_command_line(["--model", "m", f"--{leg}={target}"])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"python -m gateway: --{leg} (GATEWAY_{leg.upper()}): {target!r} is not accepted; accepted: host:port,"
        " dns:///name:port, unix:path, and for several addresses ipv4:10.0.0.1:50051,10.0.0.2:50051 or"
        " ipv6:[fd00::1]:50051,[fd00::2]:50051"
    )


def test_the_gateway_ends_before_it_reads_its_checkpoint(tmp_path: Path) -> None:
    ended = python("-m", "gateway", "--model", str(tmp_path / "none"), "--llm", "http://127.0.0.1:51052")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("python -m gateway: --llm (GATEWAY_LLM): 'http://127.0.0.1:51052' is not accepted;")
