"""TLS on the REST port: certificates, renewal, handshakes that fail or never end."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from fovea import AnswerError, AsyncClient
from gateway.server.tls import server_contexts
from gateway.settings import GatewaySettings
from tests.certificates import Authority
from tests.unit.gateway.conftest import Gateway, StartGateway, failures
from tests.unit.gateway.raw_http import GET, RawConnection


def _trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.ca)


def _break(path: str) -> None:
    Path(path).write_text("broken")


async def _serial(gateway: Gateway, context: ssl.SSLContext) -> str:
    """Serial number of the certificate that a new connection is served with."""
    async with RawConnection(gateway, tls=context) as client:
        await client.send(GET)
        assert (await client.response()).status == 200
        return str(client.writer.get_extra_info("peercert")["serialNumber"])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_renewed_certificates_are_served_without_a_restart(
    start_gateway: StartGateway, authority: Authority
) -> None:
    files = authority.issue("rest", "127.0.0.1")
    gateway = await start_gateway(over_tcp=True, tls_cert=files.cert, tls_key=files.key)
    context = _trusting(authority)
    async with RawConnection(gateway, tls=context) as open_before:
        first = await _serial(gateway, context)
        authority.issue("rest", "127.0.0.1")
        second = await _serial(gateway, context)
        assert second != first
        _break(files.key)
        before = failures("credentials")
        assert await _serial(gateway, context) == second  # the last good one
        assert failures("credentials") == before + 1
        await open_before.send(GET)
        assert (await open_before.response()).status == 200


async def test_answers_come_over_tls(start_gateway: StartGateway, authority: Authority) -> None:
    files = authority.issue("rest", "127.0.0.1")
    gateway = await start_gateway(over_tcp=True, tls_cert=files.cert, tls_key=files.key)
    await gateway.answer()


async def test_our_client_takes_the_authority_from_a_variable(
    start_gateway: StartGateway, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = authority.issue("rest", "127.0.0.1")
    gateway = await start_gateway(over_tcp=True, tls_cert=files.cert, tls_key=files.key)
    url = str(gateway.http.base_url)
    monkeypatch.delenv("FOVEA_CA_FILE", raising=False)
    async with AsyncClient(url) as client:
        with pytest.raises(AnswerError, match="the variable FOVEA_CA_FILE may name a PEM file"):
            await client.pruners()
    monkeypatch.setenv("FOVEA_CA_FILE", authority.ca)
    async with AsyncClient(url) as client:
        assert (await client.pruners())["pruners"]
    for content, reason in (("broken", "no certificate in PEM form"), (None, "No such file")):
        path = tmp_path / f"{content}.pem"
        if content:
            path.write_text(content)
        monkeypatch.setenv("FOVEA_CA_FILE", str(path))
        with pytest.raises(AnswerError, match=f"FOVEA_CA_FILE: .*{reason}"):
            AsyncClient(url)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_versions_before_tls_1_2_are_refused(start_gateway: StartGateway, authority: Authority) -> None:
    files = authority.issue("rest", "127.0.0.1")
    gateway = await start_gateway(over_tcp=True, tls_cert=files.cert, tls_key=files.key)
    context = _trusting(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")  # OpenSSL would refuse the old versions by itself
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    before = failures("handshake")
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await _serial(gateway, context)
    assert failures("handshake") == before + 1
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    await _serial(gateway, context)


@pytest.mark.parametrize("beginning", [b"", b"\x16\x03\x01\x00\xf5\x01"], ids=["silent", "unfinished"])
async def test_a_handshake_that_never_ends_is_ended_and_counts_as_a_connection(
    start_gateway: StartGateway, authority: Authority, beginning: bytes
) -> None:
    files = authority.issue("rest", "127.0.0.1")
    gateway = await start_gateway(
        over_tcp=True, tls_cert=files.cert, tls_key=files.key, header_timeout_s=1, max_connections=1
    )
    before = failures("handshake"), failures("connection_refused")
    async with RawConnection(gateway) as stalled:
        await stalled.send(beginning)
        async with RawConnection(gateway) as beyond:
            assert await beyond.is_closed()
        assert await stalled.is_closed()
    assert (failures("handshake"), failures("connection_refused")) == (before[0] + 1, before[1] + 1)
    await _serial(gateway, _trusting(authority))  # the place is free again


async def test_a_silent_connection_after_its_handshake_is_closed(
    start_gateway: StartGateway, authority: Authority
) -> None:
    files = authority.issue("rest", "127.0.0.1")
    gateway = await start_gateway(over_tcp=True, tls_cert=files.cert, tls_key=files.key, header_timeout_s=0.5)
    async with RawConnection(gateway, tls=_trusting(authority)) as client:
        assert await client.is_closed()


async def test_a_refused_body_is_answered_over_tls(start_gateway: StartGateway, authority: Authority) -> None:
    files = authority.issue("rest", "127.0.0.1")
    gateway = await start_gateway(over_tcp=True, tls_cert=files.cert, tls_key=files.key, max_body_bytes=1000)
    size = 4 * 2**20
    async with RawConnection(gateway, tls=_trusting(authority)) as client:
        await client.send(
            b"POST /v1/answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
        )
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (413, "close")


@pytest.mark.parametrize("flags", [("--tls-cert", "c.pem"), ("--tls-key", "k.pem")])
def test_certificate_and_key_go_together(flags: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        GatewaySettings.from_command_line(["--model", "m", *flags])
    assert caught.value.code == 2
    assert "--tls-cert and --tls-key go together" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["missing", "no PEM", "other key"])
def test_files_that_cannot_be_used_are_an_error_at_the_start(
    broken: str, authority: Authority, llava: Path, clip: Path
) -> None:
    files = authority.issue("rest", "127.0.0.1")
    if broken == "missing":
        Path(files.cert).unlink()
    elif broken == "no PEM":
        Path(files.cert).write_text("no PEM")
    else:
        Path(files.key).write_bytes(Path(authority.issue("other", "127.0.0.1").key).read_bytes())
    words = ["--model", str(llava), "--text-tower", str(clip), "--tls-cert", files.cert, "--tls-key", files.key]
    result = subprocess.run(
        [sys.executable, "-m", "gateway", *words, "--listen", "127.0.0.1:0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 2
    assert f"python -m gateway: certificate {files.cert} and key {files.key}: " in result.stderr
    assert "Traceback" not in result.stderr


def test_the_context_is_the_same_until_a_file_changes(authority: Authority) -> None:
    files = authority.issue("rest", "127.0.0.1")
    contexts = server_contexts(files.cert, files.key)
    first = contexts.get()
    assert contexts.get() is first
    authority.issue("rest", "127.0.0.1")
    assert contexts.get() is not first
