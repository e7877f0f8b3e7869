"""`fovea doctor`: what it finds, and what it advises."""

from __future__ import annotations

import email.utils
import json
import shutil
import socket
import ssl
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.cli import main
from fovea.doctor import machine, network
from fovea.doctor.finding import Level
from fovea.processes.stack import free_port
from fovea.wire import rans
from tests.certificates import Authority
from tests.local_http_server import LocalHttpServer
from tests.plain_gateway import PlainGateway

NOBODY = "http://127.0.0.1:9"


class Answers(BaseHTTPRequestHandler):
    """Replies by path: status and JSON."""

    replies: dict[str, tuple[int, Any]]

    def do_GET(self) -> None:
        status, body = self.replies[self.path]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def answers() -> Iterator[tuple[str, dict[str, tuple[int, Any]]]]:
    """URL of a server with a Date header, and its replies."""
    handler = type("Handler", (Answers,), {"replies": {}})
    with LocalHttpServer(handler) as server:
        yield server.url, handler.replies  # type: ignore[attr-defined]


def test_packages_that_are_missing_or_do_not_fit_are_named() -> None:
    assert machine.unmet(Requirement("httpx>=0.28"), "") == ""
    assert machine.unmet(Requirement("no-such-package>=1"), "") == "no-such-package is missing"
    assert "does not fit >=99" in machine.unmet(Requirement("httpx>=99"), "")
    of_an_extra = Requirement('no-such-package; extra == "llm"')
    assert machine.unmet(of_an_extra, "gateway") == ""
    assert machine.unmet(of_an_extra, "llm") == "no-such-package is missing"
    assert {finding.level for finding in machine.versions()} == {Level.OK}


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(("coder", "level"), [("native", Level.OK), ("numpy", Level.WARNING)])
def test_the_coder_of_streams_is_named(coder: str, level: Level) -> None:
    if coder not in rans.available_coders():
        pytest.skip("the library in C needs a C compiler")
    with rans.using_coder(coder):
        found = machine.entropy_coder()
    assert (found.level, bool(found.advice)) == (level, coder == "numpy")
    assert {"native": "library in C", "numpy": "numpy codes"}[coder] in found.text


@pytest.mark.parametrize(
    ("smi", "torch", "level", "says"),
    [
        (None, "", Level.OK, "none (no nvidia-smi)"),
        ("exit 9", "", Level.WARNING, "nvidia-smi fails"),
        ("echo 'H200, 9 MiB, 10 MiB, 570.1'", "exit 1", Level.WARNING, "torch cannot be imported"),
        ("echo 'H200, 9 MiB, 10 MiB, 570.1'", "echo 2.8+cpu False", Level.WARNING, "torch 2.8+cpu cannot use it"),
        ("printf 'H200, 9 MiB, 10 MiB, 570.1\\nx\\n'", "echo 2.8 True", Level.OK, "2 x H200, 9 MiB free of 10 MiB"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_found(
    smi: str | None, torch: str, level: Level, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if smi is not None:
        program(tmp_path, "nvidia-smi", smi)
    program(tmp_path, "python", torch)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    found = machine.gpu()
    assert (found.level, says in found.text) == (level, True), found
    assert bool(found.advice) == (level is not Level.OK or smi is None)


def test_a_checkpoint_is_read_but_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    assert machine.checkpoint(None).level is Level.OK
    (tmp_path / "empty").mkdir()
    assert "holds no config.json" in machine.checkpoint(str(tmp_path / "empty")).text
    other = Path(shutil.copytree(shipped_checkpoint("llava"), tmp_path / "other"))
    assert machine.checkpoint(str(other)).level is Level.OK
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "blip"}))
    found = machine.checkpoint(str(other))
    assert found.level is Level.PROBLEM
    assert "it is of the family blip; supported are" in found.text
    assert machine.checkpoint("nobody/nothing").level is Level.WARNING


def test_a_checkpoint_without_its_weights_is_wrong(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shipped_checkpoint("llava"), tmp_path / "mine"))
    (folder / "model.safetensors").unlink()
    found = machine.checkpoint(str(folder))
    assert found.level is Level.PROBLEM
    assert "'mine' is not supported: there is no weights file (*.safetensors) in it" in found.text


@pytest.mark.parametrize("name", ["/none", "./none", "../none", "~/none/at/all", "~nobody-of-this-name/x", "none"])
def test_a_path_that_leads_nowhere_is_wrong(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = machine.checkpoint(name)
    assert (found.level, found.text) == (Level.PROBLEM, f"there is no checkpoint directory {name!r}")
    assert "--model takes a folder" in found.advice
    assert main(["doctor", "--model", name]) == 1
    assert f"WRONG  checkpoint   there is no checkpoint directory {name!r}" in capsys.readouterr().out


def test_a_port_that_another_program_has_is_wrong(gateway: PlainGateway) -> None:
    assert network.port(f"127.0.0.1:{free_port()}", NOBODY).level is Level.OK
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        found = network.port(f"127.0.0.1:{other.getsockname()[1]}", NOBODY)
        assert found.level is Level.PROBLEM
        assert "address already in use" in found.text
        assert "--listen" in found.advice
    gateway.answers({})
    found = network.port(gateway.url.removeprefix("http://"), gateway.url)
    assert (found.level, "gateway that runs" in found.text) == (Level.OK, True)


def test_the_port_of_a_gateway_behind_the_proxy_that_is_checked_is_right(gateway: PlainGateway) -> None:
    address = gateway.url.removeprefix("http://")
    gateway.answers({"status": "ready", "checks": {"encoder": "ok"}})
    found = network.port(address, "https://fovea.example.org")
    assert (found.level, found.text) == (Level.OK, f"{address} is that of a gateway that runs")
    assert found.advice == f"fovea doctor --url {gateway.url} checks it"
    gateway.answers({"hello": "world"})  # another program
    assert network.port(address, "https://fovea.example.org").level is Level.PROBLEM


def test_a_gateway_that_is_not_ready_or_wants_a_key_is_found(answers: tuple[str, dict[str, tuple[int, Any]]]) -> None:
    url, replies = answers
    none, clock = network.gateway(NOBODY.replace("//", "//user:s3cret@"), None)
    assert (none.level, clock.level) == (Level.WARNING, Level.WARNING)
    assert "s3cret" not in none.text
    replies["/readyz"] = 503, {"error": {"message": "not ready: llm is not serving"}}
    first, _ = network.gateway(url, None)
    assert first.text == "not ready: llm is not serving"
    assert first.advice.startswith("see the log of the service that the message names; if it runs")
    refused = "not accepting the bearer token of this gateway"
    replies["/readyz"] = 503, {"checks": {"llm": refused}, "error": {"message": f"not ready: llm is {refused}"}}
    first, _ = network.gateway(url, None)
    assert first.text == f"not ready: llm is {refused}"
    assert "--llm-token-file" in first.advice
    replies["/readyz"] = 200, {}
    replies["/v1/models"] = 401, {"error": {"message": "no key"}}
    first, _ = network.gateway(url, "fovea-key")
    assert (first.level, "FOVEA_API_KEY" in first.advice) == (Level.PROBLEM, True)
    replies["/v1/models"] = 200, {"data": [{"id": "fovea-lab"}]}
    assert {found.level for found in network.gateway(url, None)} == {Level.OK}


def test_a_proxy_that_keeps_readyz_to_itself_is_no_fault(answers: tuple[str, dict[str, tuple[int, Any]]]) -> None:
    url, replies = answers
    replies["/readyz"] = 404, {"error": {"message": "there is no such path"}}
    replies["/v1/models"] = 200, {"data": [{"id": "fovea-lab"}]}
    first, _ = network.gateway(url, None)
    assert (first.level, first.text) == (Level.OK, "serves fovea-lab")
    assert "has no /readyz" in first.advice
    replies["/v1/models"] = 404, {"error": {"message": "there is no such path"}}
    first, _ = network.gateway(url, None)
    assert (first.level, "there is no such path" in first.text) == (Level.PROBLEM, True)


def test_what_up_would_start_is_checked(
    gateway: PlainGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers({"data": [{"id": "m"}]})
    config, listen = tmp_path / "fovea.toml", gateway.url.removeprefix("http://")
    config.write_text(
        f'[up]\nmodel = "{tmp_path}"\nlisten = "{listen}"\nno_restart = true\n'
        '[gateway]\nredis_url = "redis://127.0.0.1:1"\n'
    )
    assert main(["doctor", "--config", str(config)]) == 1
    shown = capsys.readouterr().out
    assert "it holds no config.json" in shown
    assert f"{listen} is that of the gateway that runs" in shown
    assert "no connection to 127.0.0.1:1" in shown
    assert "ready, serves m" in shown
    main(["doctor", "--config", str(config), "--listen", f"127.0.0.1:{free_port()}"])
    assert f"none answers at {gateway.url}" not in capsys.readouterr().out


def test_a_gateway_with_a_certificate_is_asked_over_https(
    gateway: PlainGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers({"data": [{"id": "m"}]})
    authority, listen = Authority(tmp_path), gateway.url.removeprefix("http://")
    files = authority.issue("gateway", "127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    gateway.socket = context.wrap_socket(gateway.socket, server_side=True)
    for where in (["--listen", listen], ["--listen", listen, "--url", gateway.url]):  # nothing tells that it has one
        assert main(["doctor", *where]) == 1
        shown = capsys.readouterr().out
        assert f"{listen} is that of the gateway that runs" in shown
        assert f"the gateway speaks https, not http; use https://{listen}" in shown
    monkeypatch.setenv("GATEWAY_TLS_CERT", files.cert)
    assert main(["doctor", "--listen", listen]) == 1
    shown = capsys.readouterr().out
    assert f"{listen} is that of the gateway that runs" in shown
    assert "FOVEA_CA_FILE may name a PEM file with its authority" in shown
    monkeypatch.setenv("FOVEA_CA_FILE", authority.ca)
    assert main(["doctor", "--listen", listen]) == 0
    assert "ready, serves m" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("skew_s", "level", "says"),
    [(3, Level.OK, "as the"), (90, Level.PROBLEM, "90 s ahead of"), (-90, Level.PROBLEM, "90 s behind")],
)
def test_a_clock_that_differs_is_wrong(
    skew_s: int, level: Level, says: str, gateway: PlainGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda self: email.utils.formatdate(1000))
    gateway.answers({"data": []})
    *_, clock = network.gateway(gateway.url, None, now=lambda: 1000 + skew_s)
    assert (clock.level, says in clock.text) == (level, True), clock


def test_the_exit_status_tells_whether_anything_is_wrong(
    gateway: PlainGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers({"data": [{"id": "m"}]})
    words = ["doctor", "--url", gateway.url, "--listen", gateway.url.removeprefix("http://")]
    assert main(words) == 0
    assert "WRONG" not in capsys.readouterr().out
    assert main([*words, "--redis-url", f"redis://127.0.0.1:{free_port()}", "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    (wrong,) = (finding for finding in findings if finding["level"] == "problem")
    assert wrong["subject"] == "Redis"
    assert wrong["advice"]
