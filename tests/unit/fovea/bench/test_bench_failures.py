"""Failures of `fovea bench`: their kinds, its exit status, and secrets that no text shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fovea.cli import main
from fovea.processes.stack import free_port
from tests.certificates import Authority
from tests.tls_server import serve_tls
from tests.unit.fovea.bench.chat_endpoint import USAGE, ChatEndpoint, Exchange, answer
from tests.unit.fovea.bench.runs import SMALL, bench


def refused(status: int, body: str) -> Callable[[Exchange], None]:
    return lambda exchange: exchange.refuse(status, body)


def broken(exchange: Exchange) -> None:
    exchange.start()
    exchange.text("a")
    exchange.break_off()


def unfinished(exchange: Exchange) -> None:
    exchange.start()
    exchange.text("a")
    exchange.end(USAGE, done=False)


def error_event(exchange: Exchange) -> None:
    exchange.start()
    exchange.text("a")
    exchange.event({"error": {"message": "the LLM service is gone"}})
    exchange.end()


def not_json(exchange: Exchange) -> None:
    exchange.start()
    exchange.send("data: {\n\n")
    exchange.end()


def whole_object(exchange: Exchange) -> None:
    exchange.start("application/json")
    exchange.send("{}")
    exchange.end(done=False)


FAILURES: list[tuple[Callable[[Exchange], None], str, str]] = [
    (refused(429, '{"error": {"message": "too many requests"}}'), "status 429", "too many requests"),
    (refused(500, "<html>oops</html>"), "status 500", "oops"),
    (broken, "connection broken", ""),
    (lambda exchange: exchange.break_off(), "connection broken", ""),
    (unfinished, "stream ended early", "[DONE]"),
    (error_event, "error in the stream", "the LLM service is gone"),
    (not_json, "invalid chunk", "not JSON"),
    (whole_object, "not a stream", "application/json"),
]


@pytest.mark.parametrize(("script", "kind", "message"), FAILURES)
def test_failures_are_counted_by_kind(
    endpoint: ChatEndpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    script: Callable[[Exchange], None],
    kind: str,
    message: str,
) -> None:
    # The warm-up and every second request succeed.
    endpoint.script = lambda exchange: (script if exchange.number % 2 else answer)(exchange)
    (row,) = bench(endpoint, tmp_path, "--requests", "4", status=1)["results"]
    assert (row["requests"], row["failed"]) == (4, 2)
    (failure,) = row["failures"]
    assert (failure["kind"], failure["count"]) == (kind, 2)
    assert message in failure["first_message"]
    assert row["mean_output_tokens"] == USAGE["completion_tokens"], "failed requests count as no answer"
    assert kind in capsys.readouterr().out


def test_an_answer_that_takes_too_long_is_a_failure(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    ended = threading.Event()
    endpoint.script = lambda exchange: answer(exchange) if exchange.number == 0 else (ended.wait(60), None)[1]
    (row,) = bench(endpoint, tmp_path, "--requests", "1", "--timeout-s", "2", status=1)["results"]
    ended.set()
    assert [failure["kind"] for failure in row["failures"]] == ["timeout"]


def test_an_endpoint_that_answers_no_warm_up_ends_the_run(
    endpoint: ChatEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.script = refused(404, '{"error": {"message": "no model x"}}')
    assert main(["bench", endpoint.url, "--model", "x", *SMALL]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "status 404: no model x" in printed.err
    assert main(["bench", f"http://127.0.0.1:{free_port()}", "--model", "x", *SMALL]) == 1
    assert "no connection" in capsys.readouterr().err


def test_figures_of_earlier_levels_survive_a_warm_up_without_answers(
    endpoint: ChatEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.script = lambda exchange: answer(exchange) if exchange.number < 2 else exchange.refuse(503, "")
    result = bench(endpoint, tmp_path, "--requests", "1", "--concurrency", "1,2", status=1)
    assert [row["concurrency"] for row in result["results"]] == [1]
    assert not result["complete"]
    assert "status 503" in capsys.readouterr().err


@pytest.mark.parametrize("models", [{"data": []}, {}, [], {"data": [{"id": "x"}]}])
def test_the_default_model_is_the_first_that_is_listed(
    endpoint: ChatEndpoint, models: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.models = models
    lists_one = models == {"data": [{"id": "x"}]}
    assert main(["bench", endpoint.url, "--requests", "1", *SMALL]) == (0 if lists_one else 1)
    assert lists_one == ("--model" not in capsys.readouterr().err)


def test_no_list_of_models_without_a_connection(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", f"http://user:secret@127.0.0.1:{free_port()}"]) == 1
    error = capsys.readouterr().err
    assert "no list of models from http://127.0.0.1" in error
    assert "secret" not in error


def test_a_key_that_is_missing_or_wrong_is_told_where_it_is_given(
    endpoint: ChatEndpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.api_key = "sk-1"
    monkeypatch.delenv("FOVEA_API_KEY", raising=False)
    assert main(["bench", endpoint.url, *SMALL]) == 1
    assert capsys.readouterr().err == (
        f"fovea: {endpoint.url} needs an API key: set the variable FOVEA_API_KEY, or name another variable with"
        " --api-key-env (status 401)\n"
    )
    monkeypatch.setenv("BENCH_KEY", "sk-2")
    assert main(["bench", endpoint.url, *SMALL, "--api-key-env", "BENCH_KEY"]) == 1
    wrong = capsys.readouterr().err
    assert "does not accept the API key of FOVEA_API_KEY, --api-key or --api-key-env (status 401)" in wrong
    monkeypatch.setenv("FOVEA_API_KEY", "sk-1")
    assert main(["bench", endpoint.url, *SMALL, "--requests", "1"]) == 0


@pytest.mark.parametrize("model", [[], ["--model", "m"]])
def test_an_authority_of_ones_own_is_accepted(
    model: list[str],
    endpoint: ChatEndpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("FOVEA_CA_FILE", raising=False)
    authority = Authority(tmp_path)
    words = ["bench", serve_tls(endpoint, authority), *model, "--requests", "1", *SMALL]
    assert main(words) == 1
    assert "the variable FOVEA_CA_FILE may name a PEM file with its authority" in capsys.readouterr().err
    monkeypatch.setenv("FOVEA_CA_FILE", authority.ca)
    assert main(words) == 0
    monkeypatch.setenv("FOVEA_CA_FILE", "/none")
    assert main(words) == 1
    assert "fovea: FOVEA_CA_FILE: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("model", [[], ["--model", "m"]])
def test_http_in_place_of_https_and_the_reverse_name_the_url_that_works(
    model: list[str], endpoint: ChatEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = endpoint.url
    assert main(["bench", plain.replace("http:", "https:"), *model, *SMALL]) == 1
    assert f"it speaks http, not https; use {plain}" in capsys.readouterr().err
    secure = serve_tls(endpoint, Authority(tmp_path))
    assert main(["bench", plain, *model, *SMALL]) == 1
    assert f"; if it speaks https, use {secure}" in capsys.readouterr().err


def test_the_key_is_sent_and_never_shown(
    endpoint: ChatEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_KEY", "sk-12345")
    script = refused(401, '{"error": {"message": "the key sk-12345 is wrong"}}')
    endpoint.script = lambda exchange: (script if exchange.number else answer)(exchange)
    result = bench(endpoint, tmp_path, "--requests", "1", "--api-key-env", "BENCH_KEY", status=1)
    assert {exchange.headers["authorization"] for exchange in endpoint.exchanges} == {"Bearer sk-12345"}
    printed = capsys.readouterr()
    assert "the key *** is wrong" in printed.out
    assert "12345" not in printed.out + printed.err + json.dumps(result)


def test_a_password_of_the_url_is_not_shown(
    endpoint: ChatEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    url = endpoint.url.replace("//", "//user:secret@")
    assert main(["bench", url, "--requests", "1", *SMALL, "--json", str(out)]) == 0
    printed = capsys.readouterr()
    assert "secret" not in printed.out + printed.err + out.read_text()
    assert json.loads(out.read_text())["url"] == endpoint.url


def test_ctrl_c_prints_what_there_is(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    held, ended = threading.Event(), threading.Event()

    def script(exchange: Exchange) -> None:
        if exchange.number < 4:
            answer(exchange)
        else:
            held.set()
            ended.wait(60)

    endpoint.script = script
    out = tmp_path / "result.json"
    words = [sys.executable, "-m", "fovea.cli", "bench", endpoint.url, *SMALL, "--json", str(out)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        assert held.wait(60)
        process.send_signal(signal.SIGINT)
        printed, error = process.communicate(timeout=60)
    ended.set()
    assert process.returncode == 130, error
    assert "Traceback" not in error
    result = json.loads(out.read_text())
    assert [(row["requests"], row["failed"]) for row in result["results"]] == [(3, 0)]
    assert not result["complete"]
    assert "requests/s" in printed


@pytest.mark.parametrize(
    ("words", "accepted"),
    [
        (["--concurrency", "1,0"], "separated by commas"),
        (["--concurrency", "many"], "separated by commas"),
        (["--image-size", "640"], "640x480"),
        (["--image-size", "0x3"], "640x480"),
        (["--requests", "2", "--duration", "3"], "not allowed with"),
        (["--images", ".", "--image-size", "4x4"], "not allowed with"),
        (["--api-key-env", "NO_SUCH_VARIABLE"], "not set"),
        (["--duration", "0"], "above 0"),
    ],
)
def test_a_wrong_command_line_is_refused(
    words: list[str], accepted: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    try:
        status = main(["bench", "http://127.0.0.1:9", "--model", "m", *words])
    except SystemExit as left:
        status = left.code
    assert status == 2
    assert accepted in capsys.readouterr().err


def test_a_result_file_needs_its_folder(endpoint: ChatEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", endpoint.url, "--json", "/none/here.json"]) == 1
    assert "no folder" in capsys.readouterr().err
    assert not endpoint.exchanges
