"""How a command ends: output on any terminal, signals, a full disk."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fovea.cli import main
from tests.plain_gateway import PlainGateway, event
from tests.unit.fovea.cli.commands import EXPLAINED


def fovea(*words: str, **options: Any) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options
    return subprocess.Popen([sys.executable, "-m", "fovea.cli", *words], text=True, encoding="utf-8", **pipes)


ASCII = {"PYTHONIOENCODING": "ascii"}
NO_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}


@pytest.mark.parametrize(("streamed", "terminal"), [(True, ASCII), (False, ASCII), (False, NO_LOCALE)])
def test_a_terminal_without_emoji_shows_question_marks(
    gateway: PlainGateway, image: str, streamed: bool, terminal: dict[str, str]
) -> None:
    gateway.answers({"answer": "a \N{ROCKET} moon"})
    if streamed:
        gateway.content_type = "text/event-stream"
        gateway.reply = event("token", {"text": "a \N{ROCKET} moon"}) + event("done", {"answer": ""})
    environment = {**os.environ, **terminal}
    with fovea("ask", image, "what?", "--url", gateway.url, *["--stream"] * streamed, env=environment) as process:
        out, error = process.communicate(timeout=60)
    assert (out, error, process.returncode) == ("a ? moon\n", "", 0)


def test_json_is_json_on_any_terminal(gateway: PlainGateway, image: str) -> None:
    gateway.answers({"answer": "\N{ROCKET}é"})
    for encoding in ("ascii", "utf-8", "latin-1"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        with fovea("ask", image, "what?", "--url", gateway.url, "--json", env=environment) as process:
            out, error = process.communicate(timeout=60)
        assert json.loads(out) == {"answer": "\N{ROCKET}é"}, error
        assert ("\N{ROCKET}" in out) == (encoding == "utf-8")


@pytest.mark.parametrize("streamed", [True, False])
def test_a_closed_pipe_ends_the_command_silently(gateway: PlainGateway, image: str, streamed: bool) -> None:
    gateway.answers({"answer": "x"})
    if streamed:
        gateway.content_type = "text/event-stream"
        gateway.reply = event("token", {"text": "one\n"}) * 3 + event("done", {"answer": ""})
    gateway.released.clear()
    with fovea("ask", image, "what?", "--url", gateway.url, *["--stream"] * streamed) as process:
        assert process.stdout
        assert process.stderr
        gateway.asked.wait(60)
        process.stdout.close()
        gateway.released.set()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 128 + signal.SIGPIPE


def test_control_c_ends_the_command_silently(gateway: PlainGateway, image: str) -> None:
    gateway.released.clear()
    with fovea("ask", image, "what?", "--url", gateway.url) as process:
        gateway.asked.wait(60)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (out, error, process.returncode) == ("", "", 130)


@pytest.mark.parametrize("words", [["ask", "a.png", "what?"], ["up"], ["doctor"], ["keys", "list"]])
def test_control_c_while_the_command_is_imported_ends_it_silently(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "httpx.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[4]}"}
    command = [sys.executable, "-m", "fovea.cli", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "")


def test_a_full_disk_is_an_error(answering: PlainGateway, image: str) -> None:
    with (
        Path("/dev/full").open("w") as full,
        fovea("ask", image, "what?", "--url", answering.url, stdout=full) as process,
    ):
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (1, "fovea: the output: No space left on device\n")


def test_a_drawing_that_cannot_be_written_is_an_error(
    gateway: PlainGateway, image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers(EXPLAINED)
    (tmp_path / "out.png").mkdir()
    assert main(["explain", image, "what?", "--url", gateway.url, "--out", str(tmp_path / "out.png")]) == 1
    assert "out.png: Is a directory" in capsys.readouterr().err
    assert main(["explain", image, "what?", "--url", gateway.url, "--out", str(tmp_path / "none" / "out.png")]) == 1
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", [[], ["up"], ["ask"], ["chat"], ["doctor"], ["explain"], ["demo"]])
def test_help_fits_the_terminal_and_explains_every_option(
    command: list[str], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as left:
        main([*command, "--help"])
    assert left.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    options = [number for number, line in enumerate(lines) if line.startswith("  --")]
    for number in options:  # words behind the option, or on the next line
        assert re.search(r"\S  +\S", lines[number][2:]) or lines[number + 1].startswith(" " * 20)
