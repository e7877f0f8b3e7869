"""The gateway as a process: imports, flags, errors at the start."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import httpx
import numpy as np
import pytest

from gateway.settings import GatewaySettings
from tests.unit.fovea.media.png_files import RGB
from tests.unit.fovea.media.png_files import png as deep_png
from tests.unit.gateway.conftest import ask, data_url
from tests.unit.gateway.gateway_process import gateway_process
from tests.unit.gateway.services import ScriptedEncoder, ScriptedLLM, serve
from tests.without_numpy import without_numpy

pytestmark = pytest.mark.slow


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=60)


def test_help_describes_every_setting() -> None:
    result = python("-m", "gateway", "--help")
    assert result.returncode == 0
    for name, field in GatewaySettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in result.stdout
        assert field.description


def test_a_missing_checkpoint_is_reported_in_one_line(tmp_path: Path) -> None:
    result = python("-m", "gateway", "--model", str(tmp_path))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "python -m gateway:" in result.stderr


def test_a_taken_address_of_the_metrics_is_reported_in_one_line(llava: Path, clip: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        words = ["--model", str(llava), "--text-tower", str(clip), "--listen", "127.0.0.1:0"]
        result = python("-m", "gateway", *words, "--metrics-listen", address)
    assert result.returncode == 1
    assert f"python -m gateway: cannot listen on {address}: it is taken" in result.stderr
    assert "choose another for the metrics with --metrics-listen (GATEWAY_METRICS_LISTEN)" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_address_of_the_network_needs_keys_or_a_flag(llava: Path, clip: Path, tmp_path: Path) -> None:
    words = ["-m", "gateway", "--model", str(llava), "--text-tower", str(clip), "--listen", "0.0.0.0:0"]
    refused = python(*words)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "--keys-file FILE" in line
    assert "--allow-anonymous" in line
    missing = python(*words, "--keys-file", str(tmp_path / "missing"))
    assert missing.returncode == 2
    assert "there is no file of API keys at" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_serving_everyone_is_a_warning_in_the_log(llava: Path, clip: Path) -> None:
    words = [sys.executable, "-m", "gateway", "--model", str(llava), "--text-tower", str(clip)]
    process = subprocess.Popen([*words, "--listen", "0.0.0.0:0", "--allow-anonymous"], stderr=subprocess.PIPE)
    assert process.stderr is not None
    lines = [
        json.loads(line) for line in iter(process.stderr.readline, b"") if _stop_when_up(process, line, signal.SIGTERM)
    ]
    assert process.wait(20) == 0
    process.stderr.close()
    warnings = [line["message"] for line in lines if line["level"] == "warning"]
    assert [warning for warning in warnings if "everyone who reaches 0.0.0.0:0 is served" in warning]


@pytest.mark.parametrize("listen", ["8000", "host:", "host:99999"])
def test_an_invalid_address_is_reported_with_flag_and_variable(listen: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        GatewaySettings.from_command_line(["--model", "m", "--listen", listen])
    assert caught.value.code == 2
    assert "--listen (GATEWAY_LISTEN)" in capsys.readouterr().err


def test_hosts_are_a_comma_separated_list(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = ("a.example", "b.example")
    assert (
        GatewaySettings.from_command_line(["--model", "m", "--fetch-hosts", "A.example, b.example"]).fetch_hosts
        == hosts
    )
    monkeypatch.setenv("GATEWAY_FETCH_HOSTS", "a.example,b.example")
    assert GatewaySettings.from_command_line(["--model", "m"]).fetch_hosts == hosts


def test_the_redis_password_is_not_shown() -> None:
    settings = GatewaySettings(model="m", redis_url="redis://:secret@cache/0")  # type: ignore[arg-type]
    assert "secret" not in settings.describe()
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-7b-hf"),
        ("/models/tiny/", "tiny"),
        ("./a/b", "b"),
        ("tiny", "tiny"),
    ],
)
def test_the_served_name_never_is_a_path(model: str, name: str) -> None:
    assert GatewaySettings(model=model).model_name == name
    assert GatewaySettings(model=model, served_model_name="x").model_name == "x"


def test_prometheus_has_a_port_of_its_own(llava: Path, clip: Path) -> None:
    words = [sys.executable, "-m", "gateway", "--model", str(llava), "--text-tower", str(clip)]
    words += ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            metrics = _logged(process.stderr, r"metrics are on port (\d+)")
            public = _logged(process.stderr, r"running on http://127.0.0.1:(\d+)")
            for port, status in ((metrics, 200), (public, 404)):
                assert httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).status_code == status
        finally:
            process.terminate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly_and_its_log_is_json_lines(number: int, llava: Path, clip: Path) -> None:
    words = [sys.executable, "-m", "gateway", "--model", str(llava), "--text-tower", str(clip)]
    process = subprocess.Popen(
        [*words, "--listen", "127.0.0.1:0", "--redis-url", "redis://:secret@127.0.0.1:1/0"], stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    lines = [json.loads(line) for line in iter(process.stderr.readline, b"") if _stop_when_up(process, line, number)]
    assert process.wait(20) == 0
    process.stderr.close()
    assert {line["service"] for line in lines} == {"gateway"}
    assert "secret" not in json.dumps(lines)


async def test_requests_in_progress_when_the_process_stops_are_a_503(llava: Path, clip: Path) -> None:
    encoder, llm = ScriptedEncoder(), ScriptedLLM()
    servers = await serve(encoder), await serve(llm)
    encoder.gate.shut()
    targets = ("--encoder", f"127.0.0.1:{servers[0].port}", "--llm", f"127.0.0.1:{servers[1].port}")
    async with gateway_process(llava, clip, *targets, "--drain-grace-s", "0.1") as (url, process, lines):
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http:
            request = asyncio.create_task(http.post("/v1/answer", json=ask()))
            await encoder.gate.reached.wait()
            process.terminate()
            response = await request
        log = await lines.read()
        assert await process.wait() == 0
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["error"]["code"] == "unavailable"
    assert response.headers["x-request-id"].encode() in log
    assert b"Traceback" not in log
    await asyncio.gather(*(server.grpc.stop(0) for server in servers))


async def test_answers_and_drawings_need_no_numpy(
    llava: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the answer and in the processes that draw; the image has samples of 16 bits and a transparent colour."""
    for name, value in without_numpy(tmp_path).items():
        monkeypatch.setenv(name, value)
    assert "No module named 'numpy'" in python("-c", "import numpy").stderr
    samples = np.arange(6 * 4 * 3, dtype=np.uint16).reshape(6, 4, 3) * 800
    deep = data_url(deep_png(samples, RGB, 16, transparency=samples[0, 0].astype(">u2").tobytes()))
    servers = [await serve(servicer) for servicer in (ScriptedEncoder(), ScriptedLLM())]
    flags = ("--encoder", f"127.0.0.1:{servers[0].port}", "--llm", f"127.0.0.1:{servers[1].port}")
    async with (
        gateway_process(llava, clip, *flags) as (url, process, lines),
        httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http,
    ):
        answer = await http.post("/v1/answer", json=ask(image=deep, explain=True))
        drawings = [await http.post("/v1/explain", json=ask(image=deep, maps=maps)) for maps in (False, True)]
        process.terminate()
        log = await lines.read()
    assert answer.status_code == 200, log
    assert answer.json()["explain"]["grid"] == [2, 3]
    for drawing in drawings:
        assert drawing.headers["content-type"] == "image/png", drawing.text
    await asyncio.gather(*(server.grpc.stop(0) for server in servers))


def _logged(lines: Iterable[str], pattern: str) -> str:
    """First group of the pattern in the first line that has it."""
    return next(found[1] for line in lines if (found := re.search(pattern, line)))


def _stop_when_up(process: subprocess.Popen[bytes], line: bytes, number: int) -> bool:
    if b"running on" in line:
        process.send_signal(number)
    return True
