"""Starting and stopping, settings, mistakes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from encoder_service.__main__ import main
from encoder_service.server.servicer import EncoderServicer
from encoder_service.settings import EncoderSettings
from encoder_service.startup import load
from fovea.rpc.channel import connect
from fovea.service import serve
from fovea.v1 import encoder_pb2, encoder_pb2_grpc

TIMEOUT_S = 60.0


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("ENCODER_"):
            monkeypatch.delenv(name)


@pytest.mark.slow
async def test_the_service_starts_answers_and_stops_on_sigterm(
    checkpoints: Any, make_image: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = EncoderSettings(
        model=str(checkpoints.hub), text_tower=str(checkpoints.clip), listen="127.0.0.1:0", device="cpu"
    )
    service = asyncio.create_task(serve(settings, EncoderServicer, load))

    def line() -> str:
        return next((text for text in caplog.messages if text.startswith("serving on port")), "")

    async with asyncio.timeout(TIMEOUT_S):
        while not line() and not service.done():  # noqa: ASYNC110  # the log is the interface here
            await asyncio.sleep(0)
    port = int(line().split()[3].rstrip(":"))
    channel = connect(f"127.0.0.1:{port}", max_message_bytes=2**24)
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    request = encoder_pb2.EncodeRequest(images=[make_image(0)], text_ids=[98, 3, 99])
    assert (await encoder_pb2_grpc.EncoderServiceStub(channel).Encode(request, timeout=TIMEOUT_S)).visual_tokens
    await channel.close()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(service, TIMEOUT_S) == 0


@pytest.mark.usefixtures("own_logging")
def test_a_model_that_cannot_be_loaded_ends_with_one_sentence(
    checkpoints: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", str(checkpoints.clip), "--text-tower", str(checkpoints.clip), "--listen", "127.0.0.1:0"]
    assert main(flags) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "'clip' is not a family that this service runs; accepted: llava" in last
    assert "exception" not in last


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("flags", [["--tls-cert", "none.pem", "--tls-key", "none.key"], ["--token-file", "none"]])
def test_a_credential_that_is_not_there_ends_with_one_sentence(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--listen", "127.0.0.1:0", "--model", "x", *flags]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "none" in last
    assert "No such file" in last
    assert "exception" not in last


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("flag", ["--listen", "--metrics-listen"])
def test_a_taken_address_ends_with_one_sentence(
    flag: str, checkpoints: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        assert main(["--listen", "127.0.0.1:0", flag, address, "--model", str(checkpoints.hub)]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"cannot listen on {address}: it is taken" in last
    assert ("--metrics-listen (ENCODER_METRICS_LISTEN)" in last) == (flag == "--metrics-listen")
    assert "exception" not in last


@pytest.mark.slow
def test_a_signal_while_the_model_is_loading_ends_the_service_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")  # nobody writes to it: this model never finishes loading
    command = [sys.executable, "-m", "encoder_service", "--model", str(tmp_path), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        watchdog = threading.Timer(TIMEOUT_S, service.kill)
        watchdog.start()
        try:
            assert any("loading the model" in line for line in service.stderr)
            service.send_signal(signal.SIGTERM)
            assert service.wait(TIMEOUT_S) == 0
        finally:
            watchdog.cancel()
            service.kill()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--model (ENCODER_MODEL)"),
        (["--pruner", "magic"], "accepted: none, desap, visionzip, prumerge"),
        (["--keep-ratio", "0"], "--keep-ratio (ENCODER_KEEP_RATIO)"),
        (["--listen", "50051"], "not of the form host:port"),
        (["--dtype", "int8"], "--dtype (ENCODER_DTYPE)"),
    ],
)
def test_a_wrong_setting_is_named(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        EncoderSettings.from_command_line([*flags, *(["--model", "m"] if flags else [])])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_settings_come_from_the_environment_and_flags_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCODER_MODEL", "from/environment")
    monkeypatch.setenv("ENCODER_MAX_BATCH_SIZE", "3")
    settings = EncoderSettings.from_command_line(["--max-batch-size", "5"])
    assert (settings.model, settings.max_batch_size) == ("from/environment", 5)


def test_help_tells_what_happens_at_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        EncoderSettings.from_command_line(["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "refused at once with RESOURCE_EXHAUSTED" in text
    for name in EncoderSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in text
