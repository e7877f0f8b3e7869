"""`fovea chat`: what is sent with each question, and how the chat goes on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from fovea.cli import main
from tests.plain_gateway import PlainGateway, event
from tests.unit.fovea.cli.commands import piped
from tests.video_heads import MP4_HEAD


@pytest.fixture
def answering(gateway: PlainGateway) -> PlainGateway:
    gateway.reply = event("token", {"text": "pi"}) + event("token", {"text": "nk"}) + event("done", {"answer": "pink"})
    return gateway


def chat(monkeypatch: pytest.MonkeyPatch, gateway: PlainGateway, words: list[str], *lines: str) -> int:
    piped(monkeypatch, "".join(f"{line}\n" for line in lines).encode())
    return main(["chat", *words, "--url", gateway.url])


def histories(gateway: PlainGateway) -> list[list[tuple[str, str, int]]]:
    """Role, text and number of images of each message of each request."""

    def shown(message: dict[str, Any]) -> tuple[str, str, int]:
        if isinstance(message["content"], str):
            return message["role"], message["content"], 0
        *images, text = message["content"]
        return message["role"], text["text"], len(images)

    return [[shown(message) for message in json.loads(dict(form)["messages"])] for form in gateway.forms]


def test_each_question_has_the_turns_and_images_before_it(
    answering: PlainGateway, image: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [image, "--keep-tokens", "9", "--seed", "1"]
    assert chat(monkeypatch, answering, words, "what?", "", f"/image '{image}' https://e.com/x.png", " why? ") == 0
    assert histories(answering) == [
        [("user", "what?", 1)],
        [("user", "what?", 1), ("assistant", "pink", 0), ("user", "why?", 2)],
    ]
    assert dict(answering.form)["keep_tokens"] == b"9"
    assert capsys.readouterr() == ("pink\npink\n", "3 images\n")


@pytest.mark.parametrize(("command", "sent"), [("/reset", [("user", "why?", 2)]), ("/clear", None)])
def test_a_chat_starts_over_with_its_images_or_without(
    answering: PlainGateway,
    image: str,
    command: str,
    sent: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = chat(monkeypatch, answering, [image], "what?", f"/image {image}", command, "why?")
    if sent is None:
        assert status == 1
        assert "there is no image yet; /image FILE adds one" in capsys.readouterr().err
        assert len(answering.forms) == 1
    else:
        assert status == 0
        assert histories(answering)[-1] == sent


def test_a_refused_question_is_no_turn_and_its_images_go_with_the_next(
    answering: PlainGateway, image: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering.refusals = [(422, {})]
    assert chat(monkeypatch, answering, [image], "too long?", "what?", "why?") == 1
    assert histories(answering)[1:] == [
        [("user", "what?", 1)],
        [("user", "what?", 1), ("assistant", "pink", 0), ("user", "why?", 0)],
    ]
    assert capsys.readouterr() == ("pink\npink\n", "fovea: refused (status 422)\n")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/nothing", "accepted: /image, /reset"),
        ("/image", "/image needs files"),
        ("/image -", "/image needs files"),
        ("/image 'x", "a quotation mark is open"),
        ("/image none.png", "cannot read none.png: No such file"),
        ("/help", "/quit"),
    ],
)
def test_other_lines_are_explained_and_the_chat_goes_on(
    answering: PlainGateway,
    image: str,
    line: str,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert chat(monkeypatch, answering, [image], line, "//what?", "/quit", "never") == (line != "/help")
    assert histories(answering) == [[("user", "/what?", 1)]]
    assert says in capsys.readouterr().err


def test_an_image_that_cannot_be_read_ends_it_before_a_question(
    answering: PlainGateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(monkeypatch, answering, ["none.png"], "what?") == 1
    assert capsys.readouterr().err == "fovea: cannot read none.png: No such file or directory\n"
    assert not answering.forms


def test_a_video_is_no_image_of_a_chat(
    answering: PlainGateway,
    image: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    video = tmp_path / "clip.mp4"
    video.write_bytes(MP4_HEAD)
    says = f"is an MP4 video; fovea chat takes no videos; fovea ask --video {video} answers a question about it"
    assert chat(monkeypatch, answering, [str(video)], "what?") == 2
    assert says in capsys.readouterr().err
    assert not answering.forms
    assert chat(monkeypatch, answering, [image], f"/image {video}", "what?") == 1
    assert says in capsys.readouterr().err
    assert histories(answering) == [[("user", "what?", 1)]]


class Terminal:
    """`fovea chat` with a terminal of its own."""

    def __init__(self, *words: str, stdin: Any = None) -> None:
        self._master, slave = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fovea.cli", "chat", *words],
            stdin=slave if stdin is None else stdin,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(slave)
        self.shown = ""

    def until(self, text: str) -> None:
        while text not in self.shown:
            self.shown += os.read(self._master, 4096).decode()
        self.shown = self.shown.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> int:
        """Exit status after Ctrl-C, which is pressed again as a user would.

        Python's readline does not see one that comes after its prompt and before its first wait for a key.
        """
        for _ in range(60):
            self.type("\x03")
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(1)
        raise AssertionError("Ctrl-C does not end the chat")

    def close(self) -> int:
        os.close(self._master)
        return self.process.wait(60)


def test_control_c_stops_an_answer_and_the_chat_goes_on(answering: PlainGateway, image: str) -> None:
    answering.released.clear()
    terminal = Terminal(image, "--url", answering.url)
    terminal.until("> ")
    terminal.type("what?\n")
    answering.asked.wait(60)
    terminal.type("\x03")
    terminal.until("(stopped)")
    answering.released.set()
    terminal.until("> ")
    terminal.type("why?\n")
    terminal.until("pink")
    assert histories(answering)[-1] == [("user", "why?", 1)]
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.process.wait(60) == 0
    terminal.close()


def test_control_c_at_the_prompt_ends_the_chat(answering: PlainGateway, image: str) -> None:
    terminal = Terminal(image, "--url", answering.url)
    terminal.until("> ")
    assert terminal.interrupt() == 128 + signal.SIGINT
    terminal.close()


def test_with_an_image_from_standard_input_the_terminal_asks(answering: PlainGateway, image: str) -> None:
    with Path(image).open("rb") as file:
        terminal = Terminal("-", "--url", answering.url, stdin=file)
    terminal.until("> ")
    terminal.type("what?\n")
    terminal.until("pink")
    terminal.until("> ")
    terminal.type("/quit\n")
    assert terminal.process.wait(60) == 0
    terminal.close()
    assert histories(answering) == [[("user", "what?", 1)]]


def test_an_image_from_standard_input_without_a_terminal_is_refused(answering: PlainGateway, image: str) -> None:
    with Path(image).open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "fovea.cli", "chat", "-", "--url", answering.url],
            stdin=file,
            capture_output=True,
            text=True,
            start_new_session=True,
            check=False,
        )
    assert done.returncode == 2
    assert "there is no terminal for questions" in done.stderr
