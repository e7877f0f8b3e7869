"""What the client makes of a gateway's events, spoken by a plain HTTP server."""

from __future__ import annotations

from pathlib import Path

import pytest

from fovea.cli import main
from fovea.client import AnswerError, ask
from tests.plain_gateway import PlainGateway as Gateway
from tests.plain_gateway import event


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(b"a picture")
    return path


def test_text_comes_piece_by_piece_and_the_object_at_the_end(gateway: Gateway, picture: Path) -> None:
    pieces: list[str] = []
    gateway.reply = event("token", {"text": "a: b\n"}) + event("token", {"text": "é"}) + event("done", {"answer": "x"})
    assert ask(gateway.url, picture, "what?", on_text=pieces.append) == {"answer": "x"}
    assert pieces == ["a: b\n", "é"]
    assert b'name="stream"\r\n\r\ntrue' in gateway.body


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (event("token", {"text": "a"}) + event("error", {"error": {"message": "the service is gone"}}), "gone"),
        (event("token", {"text": "a"}), "broke the answer off"),
    ],
)
def test_an_answer_that_ends_early_is_an_error(gateway: Gateway, picture: Path, reply: str, says: str) -> None:
    gateway.reply = reply
    with pytest.raises(AnswerError, match=says):
        ask(gateway.url, picture, "what?", on_text=lambda text: None)


def test_without_a_listener_nothing_is_streamed(gateway: Gateway, picture: Path) -> None:
    gateway.content_type, gateway.reply = "application/json", '{"answer": "x"}'
    assert ask(gateway.url, picture, "what?", pruner="cls", llm_pruner={"name": "fastv"}) == {"answer": "x"}
    assert b"stream" not in gateway.body
    assert b'name="llm_pruner"\r\n\r\n{"name": "fastv"}' in gateway.body


def test_a_proxys_page_is_no_answer(gateway: Gateway, picture: Path) -> None:
    gateway.status, gateway.content_type, gateway.reply = 502, "text/html", "<html>"
    with pytest.raises(AnswerError, match="status 502 and no JSON"):
        ask(gateway.url, picture, "what?", on_text=lambda text: None)


@pytest.mark.parametrize("words", [["--pruner-params", "[1]"], ["--llm-pruner-params", "{"], ["--json", "--stream"]])
def test_options_that_mean_nothing_are_refused(words: list[str], picture: Path) -> None:
    with pytest.raises(SystemExit) as status:
        main(["ask", str(picture), "what?", *words])
    assert status.value.code == 2
