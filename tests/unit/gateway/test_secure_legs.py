"""TLS, client certificates and bearer tokens between the gateway and a service."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from fovea.errors import Unauthenticated, Unavailable
from fovea.rpc import probe
from fovea.rpc.bearer_tokens import token_line
from fovea.rpc.channel import Access, connect
from fovea.rpc.credential_files import CredentialsError
from fovea.rpc.server import GrpcServer
from fovea.rpc.tls import ClientTLS
from fovea.v1 import llm_pb2, llm_pb2_grpc
from gateway.clients.llm import LLMClient
from gateway.settings import GatewaySettings
from tests.certificates import Authority
from tests.unit.gateway.conftest import StartGateway
from tests.unit.gateway.services import ScriptedEncoder, ScriptedLLM, serve

TOKEN = "berlin-token-0123456789"


class Leg:
    """Starts servers and clients that are closed at the end."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def serve(self, servicer: ScriptedEncoder | ScriptedLLM | None = None, **options: Any) -> str:
        server: GrpcServer = await serve(servicer or ScriptedLLM(), **options)
        self._stack.push_async_callback(server.grpc.stop, 0)
        return f"127.0.0.1:{server.port}"

    def client(self, target: str, tls: ClientTLS | None = None, **access: str) -> LLMClient:
        files = {"ca": tls.ca, "cert": tls.cert, "key": tls.key} if tls else {}
        client = LLMClient(target, max_message_bytes=2**20, access=Access.from_files(**files, **access))
        self._stack.push_async_callback(client.close)
        return client


@pytest.fixture
async def leg() -> AsyncIterator[Leg]:
    async with AsyncExitStack() as stack:
        yield Leg(stack)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


async def test_mutual_tls_works(leg: Leg, authority: Authority) -> None:
    client = leg.client(await leg.serve(tls=authority.server()), authority.client())
    assert (await client.fetch_info()).fingerprint == "aaaa"
    assert await client.serving(10)


async def test_a_client_without_a_certificate_is_refused_only_under_mutual_tls(leg: Leg, authority: Authority) -> None:
    bare = authority.client(own=False)
    with pytest.raises(Unavailable) as caught:
        await leg.client(await leg.serve(tls=authority.server()), bare).fetch_info()
    assert "127.0.0.1" not in caught.value.message
    assert await leg.client(await leg.serve(tls=authority.server(mutual=False)), bare).fetch_info()


async def test_a_certificate_of_another_ca_is_refused_by_both_ends(
    leg: Leg, authority: Authority, tmp_path: Path
) -> None:
    target = await leg.serve(tls=authority.server())
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other").client()
    for tls in (other, ClientTLS(authority.ca, other.cert, other.key), None):
        with pytest.raises(Unavailable):
            await leg.client(target, tls).fetch_info()


async def test_the_name_in_the_certificate_is_checked(leg: Leg, authority: Authority) -> None:
    target = await leg.serve(tls=authority.server())
    assert await leg.client(target, authority.client(), server_name="llm.test").fetch_info()
    with pytest.raises(Unavailable):
        await leg.client(target, authority.client(), server_name="other.test").fetch_info()


async def test_renewed_certificates_are_used_without_a_restart(leg: Leg, authority: Authority, tmp_path: Path) -> None:
    target = await leg.serve(tls=authority.server())
    client = leg.client(target, authority.client())
    await client.fetch_info()
    before = client.connection.channel
    (tmp_path / "outdated").mkdir()
    outdated = leg.client(target, Authority(tmp_path / "outdated").client())

    renewed = Authority(tmp_path)  # the same file names
    renewed.server()
    renewed.client()
    assert await client.fetch_info()
    assert client.connection.channel is not before
    with pytest.raises(Unavailable):
        await outdated.fetch_info()


async def test_invalid_new_certificates_are_ignored(
    leg: Leg, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    server = authority.server()
    target = await leg.serve(tls=server)
    write(Path(server.cert), "-----BEGIN CERTIFICATE-----\n")
    with caplog.at_level(logging.ERROR):
        assert await leg.client(target, authority.client()).fetch_info()
    assert "keeping the last good credentials" in caplog.text


@pytest.mark.parametrize("spoil", ["key", "cert", "client_ca"])
async def test_files_that_cannot_be_used_are_named_at_the_start(authority: Authority, spoil: str) -> None:
    tls = authority.server()
    path = Path(getattr(tls, spoil))
    write(path, "nothing")
    with pytest.raises(CredentialsError, match=path.name):
        await serve(ScriptedLLM(), tls=tls)
    os.remove(path)
    with pytest.raises(CredentialsError, match="No such file"):
        await serve(ScriptedLLM(), tls=tls)


def test_a_token_is_never_sent_in_the_clear(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="need TLS"):
        Access.from_files(token_file=write(tmp_path / "token", TOKEN))


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    return Path(write(tmp_path / "sites", token_line("berlin", TOKEN)))


async def test_a_site_is_accepted_until_its_token_is_removed(
    leg: Leg, authority: Authority, sites: Path, tmp_path: Path
) -> None:
    target = await leg.serve(tls=authority.server(), token_file=str(sites))
    token = write(tmp_path / "token", TOKEN)
    client = leg.client(target, authority.client(), token_file=token)
    assert await client.fetch_info()
    write(sites, "# empty\n")
    with pytest.raises(Unauthenticated):
        await client.fetch_info()


@pytest.mark.parametrize("token", ["", TOKEN + "x"])
async def test_without_a_valid_token_only_health_checks_are_answered(
    leg: Leg, authority: Authority, sites: Path, tmp_path: Path, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    target = await leg.serve(tls=authority.server(), token_file=str(sites))
    access = {"token_file": write(tmp_path / "token", token)} if token else {}
    client = leg.client(target, authority.client(), **access)
    with caplog.at_level(logging.DEBUG), pytest.raises(Unauthenticated, match="LLM service does not accept") as caught:
        await client.fetch_info()
    assert caught.value.http_status == 502
    assert await client.serving(10)
    assert TOKEN not in caplog.text + str(caught.value)


async def test_a_call_without_a_token_is_refused_before_its_message_is_read(leg: Leg, sites: Path) -> None:
    """Any method is refused before the message is read; this message is larger than the server accepts."""
    channel = connect(await leg.serve(token_file=str(sites)), max_message_bytes=2**28)
    large = llm_pb2.GenerateRequest(visual_tokens=[{"features": {"data": bytes(2**26 + 1)}}])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await llm_pb2_grpc.LLMServiceStub(channel).Generate(large, timeout=60).read()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    for method in ("/fovea.v1.LLMService/Other", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(method)(b"", timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    await channel.close()


async def test_a_probe_with_a_certificate_sees_health_without_a_token(
    leg: Leg, authority: Authority, sites: Path
) -> None:
    target = await leg.serve(tls=authority.server(), token_file=str(sites))
    tls = authority.client()
    files = ["--tls-ca", tls.ca, "--tls-cert", tls.cert, "--tls-key", tls.key]
    assert await asyncio.to_thread(probe.main, [target, *files]) == 0
    assert await asyncio.to_thread(probe.main, [target, *files, "--server-name", "other.test"]) == 1
    assert await asyncio.to_thread(probe.main, [target]) == 1


async def test_the_settings_of_each_leg_are_used(
    leg: Leg, authority: Authority, sites: Path, tmp_path: Path, start_gateway: StartGateway
) -> None:
    tls, token = authority.client(), write(tmp_path / "token", TOKEN)
    secured = {"tls": authority.server(), "token_file": str(sites)}
    settings = {"encoder": await leg.serve(ScriptedEncoder(), **secured), "llm": await leg.serve(**secured)}
    for name in ("encoder", "llm"):
        settings |= {f"{name}_tls_ca": tls.ca, f"{name}_tls_cert": tls.cert, f"{name}_tls_key": tls.key}
        settings |= {f"{name}_token_file": token}
    gateway = await start_gateway(**settings)
    assert (await gateway.answer())["answer"].startswith("red")
    assert (await gateway.http.get("/readyz")).status_code == 200
    write(sites, "# empty\n")
    error = await gateway.refused(502, question="And now?")
    assert (error["code"], error["type"]) == ("unauthenticated", "server_error")
    assert error["message"] == "the encoder service does not accept the bearer token of this gateway"


@pytest.mark.parametrize("token", ["", TOKEN + "x"])
@pytest.mark.parametrize("name", ["encoder", "llm"])
async def test_a_gateway_whose_token_is_refused_is_not_ready(
    leg: Leg,
    authority: Authority,
    sites: Path,
    tmp_path: Path,
    start_gateway: StartGateway,
    name: str,
    token: str,
) -> None:
    secured = {"tls": authority.server(mutual=False), "token_file": str(sites)}
    target = await leg.serve(ScriptedEncoder() if name == "encoder" else ScriptedLLM(), **secured)
    settings = {name: target, f"{name}_tls_ca": authority.ca}
    if token:
        settings[f"{name}_token_file"] = write(tmp_path / "token", token)
    gateway = await start_gateway(**settings)
    response = await gateway.http.get("/readyz")
    assert response.status_code == 503
    state = "not accepting the bearer token of this gateway"
    assert response.json()["checks"] == {"encoder": "ok", "llm": "ok", name: state}
    assert response.json()["error"]["message"] == f"not ready: {name} is {state}"
    assert "127.0.0.1" not in response.text
    assert TOKEN not in response.text
    if token:
        write(sites, token_line("berlin", token))
        assert (await gateway.http.get("/readyz")).status_code == 200


async def test_a_token_that_is_removed_makes_a_gateway_unready_until_it_is_back(
    leg: Leg, authority: Authority, sites: Path, tmp_path: Path, start_gateway: StartGateway
) -> None:
    target = await leg.serve(tls=authority.server(mutual=False), token_file=str(sites))
    token = write(tmp_path / "token", TOKEN)
    gateway = await start_gateway(llm=target, llm_tls_ca=authority.ca, llm_token_file=token)
    assert (await gateway.http.get("/readyz")).status_code == 200
    write(sites, "# empty\n")
    await gateway.refused(502)
    response = await gateway.http.get("/readyz")
    assert (response.status_code, response.json()["checks"]["llm"]) == (
        503,
        "not accepting the bearer token of this gateway",
    )
    write(sites, token_line("berlin", TOKEN))
    async with asyncio.timeout(20):
        while (await gateway.http.get("/readyz")).status_code != 200:
            pass
    assert (await gateway.answer())["answer"].startswith("red")


@pytest.mark.parametrize("name", ["encoder", "llm"])
@pytest.mark.parametrize("flag", ["token-file", "tls-cert", "server-name"])
def test_a_gateway_with_credentials_and_no_ca_names_the_setting_of_the_ca(
    name: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "m", f"--{name}-{flag}", "x"]
    with pytest.raises(SystemExit) as caught:
        GatewaySettings.from_command_line(words)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"python -m gateway: --{name}-{flag} (GATEWAY_{name.upper()}_")
    assert f"give --{name}-tls-ca (GATEWAY_{name.upper()}_TLS_CA) as well" in line
    GatewaySettings.from_command_line([*words, f"--{name}-tls-ca", "system"])
