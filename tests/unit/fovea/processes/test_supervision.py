"""Services that end are started again after growing waits, and their logs tell why they ended."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fovea.processes.log_reasons import describe_status, last_reason
from fovea.processes.redis_watch import RedisWatch
from fovea.processes.stack import Stack, StackError
from fovea.processes.supervision import Supervisor
from tests.certificates import Authority
from tests.plain_gateway import PlainGateway

FAILS = "import sys; print('python -m encoder_service: no memory left', file=sys.stderr); sys.exit(3)"


class ScriptedStack(Stack):
    """Stack whose services run a line of Python."""

    script = FAILS

    def command(self, service: str) -> list[str]:
        return [sys.executable, "-c", self.script]


class Watched:
    """A stack of one service that ends at once, its supervisor, and the time."""

    def __init__(self, listen: str, log: Path) -> None:
        self.now, self.lines = 1000.0, list[str]()
        self.stack = ScriptedStack("model", listen=listen, log_to=log)
        self.stack.start("encoder_service")
        self.supervisor = Supervisor(self.stack, self.lines.append, clock=lambda: self.now)

    def ends(self, after_s: float = 0) -> str:
        """Waits until the service has ended; returns the line about it."""
        process = self.stack.processes.get("encoder_service")
        if process is not None:  # else a step has noted its end already
            process.wait(60)
        self.now += after_s
        self.supervisor.step()
        return self.lines.pop(0)

    def starts(self, wait_s: float) -> None:
        """Checks that the service is started after this wait, and not before."""
        self.now += wait_s - 0.01
        self.supervisor.step()
        assert not self.stack.processes
        self.now += 0.02
        self.supervisor.step()
        assert set(self.stack.processes) == {"encoder_service"}


@pytest.fixture
def watched(gateway: PlainGateway, tmp_path: Path) -> Watched:
    gateway.status = 503
    return Watched(gateway.url.removeprefix("http://"), tmp_path / "log")


def test_waits_double_up_to_a_minute_while_a_service_keeps_ending(watched: Watched) -> None:
    for wait_s in (1, 2, 4, 8, 16, 32, 60, 60):
        ended = "encoder service ended by itself with status 3: no memory left"
        assert watched.ends() == f"{ended}; starting it again in {wait_s} s"
        watched.starts(wait_s)
    assert watched.ends(after_s=299).endswith("in 60 s")
    watched.starts(60)
    assert watched.ends(after_s=300).endswith("in 1 s")
    watched.starts(1)
    watched.stack.stop()


def test_it_tells_once_that_all_are_ready_again(watched: Watched, gateway: PlainGateway) -> None:
    gateway.status = 200
    watched.supervisor.step()
    watched.ends()
    watched.stack.script = "import sys; sys.stdin.read(); import signal; signal.pause()"
    gateway.status = 503
    watched.starts(1)
    assert watched.lines == []
    gateway.status = 200
    watched.supervisor.step()
    watched.supervisor.step()
    assert watched.lines == ["all services are ready again"]
    watched.stack.stop()


@pytest.fixture
def over_tls(tmp_path: Path) -> Iterator[tuple[PlainGateway, str]]:
    """A gateway with TLS for another name than that of loopback, and its certificate."""
    files = Authority(tmp_path).issue("rest", "gateway.test")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    server = PlainGateway()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with server:
        server.answers({"checks": {"redis": "Redis does not answer"}})
        yield server, files.cert


@pytest.mark.parametrize("given", ["file", "variable", "flag"])
def test_a_gateway_with_a_certificate_is_asked_over_tls(
    given: str, over_tls: tuple[PlainGateway, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, cert = over_tls
    listen = f"localhost:{server.server_port}"
    environment = {"GATEWAY_TLS_CERT": cert} if given == "file" else {}
    if given == "variable":
        monkeypatch.setenv("GATEWAY_TLS_CERT", cert)
    flags = {"gateway": ["--tls-cert", cert]} if given == "flag" else {}
    stack = Stack("model", listen=listen, environment=environment, flags=flags)
    assert stack.url == f"https://{listen}"
    stack.wait_ready(10)
    assert stack.is_ready()
    lines: list[str] = []
    with RedisWatch(stack, lines.append) as redis:
        redis.step()
    assert lines == ["Redis does not answer"]


def test_without_a_certificate_it_is_asked_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TLS_CERT", "")
    assert Stack("model", listen="0.0.0.0:9008").url == "http://127.0.0.1:9008"


@pytest.mark.parametrize("check", ["pruner", "wire_dtype"])
def test_a_default_that_the_encoder_does_not_offer_ends_the_wait(gateway: PlainGateway, check: str) -> None:
    stack = Stack("model", listen=gateway.url.removeprefix("http://"))
    gateway.answers({"checks": {"encoder": "ok", "llm": "not serving", check: "not offered: --setting x"}}, status=503)
    seen: list[object] = []
    with pytest.raises(StackError, match=f"^not ready: {check} is not offered: --setting x$"):
        stack.wait_ready(60, on_checks=seen.append)
    assert len(seen) == 1


def test_a_token_that_a_service_refuses_ends_the_wait_with_the_option_for_it(gateway: PlainGateway) -> None:
    stack = Stack("model", listen=gateway.url.removeprefix("http://"))
    state = "not accepting the bearer token of this gateway"
    gateway.answers({"checks": {"encoder": "ok", "llm": state}}, status=503)
    with pytest.raises(
        StackError, match=f"^not ready: llm is {state}; .*--llm-token-file \\(GATEWAY_LLM_TOKEN_FILE\\)$"
    ):
        stack.wait_ready(60)


def test_a_taken_address_is_refused_with_the_options_of_the_command_and_of_make(gateway: PlainGateway) -> None:
    stack = Stack("model", listen=gateway.url.removeprefix("http://"))
    with pytest.raises(StackError, match=r"another with --listen HOST:PORT \(under make: LISTEN=HOST:PORT\)"):
        stack.start()


def test_a_service_that_cannot_be_started_is_tried_again(watched: Watched, tmp_path: Path) -> None:
    watched.ends()
    log = watched.stack.log_to
    watched.stack.log_to = tmp_path  # a folder
    watched.now += 1
    watched.supervisor.step()
    (line,) = watched.lines
    assert line.startswith("encoder service could not be started: ")
    assert line.endswith("starting it again in 2 s")
    watched.stack.log_to = log
    watched.starts(2)
    watched.stack.stop()


def test_check_is_the_error_with_the_reason(watched: Watched) -> None:
    watched.stack.processes["encoder_service"].wait(60)
    with pytest.raises(StackError, match="encoder service ended by itself with status 3: no memory left"):
        watched.stack.check()


def record(service: str, level: str, message: str, **fields: str) -> str:
    return json.dumps({"service": service, "level": level, "message": message, **fields})


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], None),
        ([record("llm", "info", "loading"), "a line of a library"], None),
        ([record("llm", "error", "no such\ncheckpoint"), record("gateway", "error", "x")], "no such checkpoint"),
        ([record("llm", "critical", "dead", exception="Traceback\n  x\nValueError: y")], "dead: ValueError: y"),
        (["python -m llm_service: --port: too large", "python -m gateway: x"], "--port: too large"),
        (["Traceback (most recent call last):", "  x", "torch.OutOfMemoryError: CUDA"], "torch.OutOfMemoryError: CUDA"),
        ([record("llm", "error", "first"), record("llm", "error", "last"), "[1, 2", "null", "3"], "last"),
        ([record("llm", "error", "x" * 10_000)], "x" * 600),
    ],
)
def test_the_reason_is_the_last_error_of_the_service(lines: list[str], reason: str | None, tmp_path: Path) -> None:
    log = tmp_path / "log"
    before = record("llm", "error", "of an earlier run") + "\n"
    log.write_text(before + "".join(f"{line}\n" for line in lines))
    assert last_reason(log, "llm_service", len(before)) == reason


def test_no_log_is_no_reason(tmp_path: Path) -> None:
    assert last_reason(tmp_path / "none", "gateway") is None


def test_a_signal_is_named() -> None:
    assert describe_status(2) == "status 2"
    assert describe_status(-15) == "signal SIGTERM"
    assert "out of memory" in describe_status(-9)
    assert describe_status(-250) == "signal 250"
