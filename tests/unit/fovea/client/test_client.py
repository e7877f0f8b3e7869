"""The client with the events of a plain HTTP server in place of a gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fovea.cli import main
from fovea.client import AnswerError, ask
from fovea.client.event_stream import events
from tests.plain_gateway import PlainGateway as Gateway
from tests.plain_gateway import event


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(b"an image")
    return path


def test_text_comes_piece_by_piece_and_the_object_at_the_end(gateway: Gateway, image: Path) -> None:
    pieces: list[str] = []
    gateway.reply = event("token", {"text": "a: b\n"}) + event("token", {"text": "é"}) + event("done", {"answer": "x"})
    assert ask(gateway.url, image, "what?", on_text=pieces.append) == {"answer": "x"}
    assert pieces == ["a: b\n", "é"]
    assert b'name="stream"\r\n\r\ntrue' in gateway.body


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (event("token", {"text": "a"}) + event("error", {"error": {"message": "the service is gone"}}), "gone"),
        (event("token", {"text": "a"}), "broke the answer off"),
        (event("token", {"text": "a"}) + "event: ping\ndata: {}\n\n", "broke the answer off"),
        ("event: token\ndata: {\n\n", "an event that is not JSON"),
    ],
)
def test_an_answer_that_ends_early_is_an_error(gateway: Gateway, image: Path, reply: str, says: str) -> None:
    gateway.reply = reply
    with pytest.raises(AnswerError, match=says):
        ask(gateway.url, image, "what?", on_text=lambda text: None)


SEPARATORS = "".join(chr(code) for code in range(0x3000) if len(f"a{chr(code)}b".splitlines()) > 1)


def test_any_text_survives_whichever_way_it_is_escaped(gateway: Gateway, image: Path) -> None:
    assert len(SEPARATORS) == 10
    texts = [f"a{SEPARATORS}\r\nb\ufeff", "data: x\n\nevent: done\n\n", "\U0001f468\u200d", "\U0001f3fd", "\x00\x7f"]
    for ensure_ascii in (True, False):
        pieces: list[str] = []
        gateway.reply = "".join(
            f"event: token\ndata: {json.dumps({'text': text}, ensure_ascii=ensure_ascii)}\n\n" for text in texts
        ) + event("done", {"answer": "".join(texts)})
        assert ask(gateway.url, image, "what?", on_text=pieces.append)["answer"] == "".join(texts)
        assert pieces == texts


def test_the_example_prints_any_text(gateway: Gateway, image: Path) -> None:
    text = f"a{SEPARATORS}b"
    usage = {"visual_tokens_kept": 1, "visual_tokens_total": 2, "wire_bytes": 3}
    gateway.reply = "".join(
        f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
        for name, data in (("token", {"text": text}), ("done", {"answer": text, "usage": usage}))
    )
    environment = {**os.environ, "FOVEA_URL": gateway.url, "PYTHONIOENCODING": "utf-8"}
    example = Path(__file__).parents[4] / "examples" / "stream.py"
    done = subprocess.run([sys.executable, example, image, "what?"], capture_output=True, env=environment, check=True)
    assert done.stdout.decode() == f"{text}\n(1 of 2 visual tokens, 3 bytes sent)\n"


@given(st.data())
def test_events_are_those_of_the_standard_however_the_body_is_cut(data: st.DataObject) -> None:
    text = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=5)
    expected, body = [], data.draw(st.sampled_from(["", "\ufeff"]))
    for _ in range(data.draw(st.integers(0, 4))):
        name, lines = data.draw(text), data.draw(st.lists(text, min_size=1, max_size=3))
        expected.append((name or "message", "\n".join(lines)))
        end = data.draw(st.sampled_from(["\r\n", "\n", "\r"]))
        for line in (f"event: {name}", ": a comment", "id: 7", "retry", *(f"data: {part}" for part in lines), ""):
            body += line + end
    raw = body.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    chunks = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert list(events(chunks)) == expected


def test_an_event_comes_with_its_empty_line_and_what_is_cut_off_never() -> None:
    stream = events(iter([b"data:a\r\n\r", b"\ndata: b\r", b"\r", b"data: c\n"]))
    assert list(stream) == [("message", "a"), ("message", "b")]
    assert list(events([b"event: a\n\ndata: b\n\n"])) == [("message", "b")]
    assert list(events([b"data: a\r\revent: b", b"\ndata: c\n\n"])) == [("message", "a"), ("b", "c")]
    assert list(events([b"data: \xff\n\n"])) == [("message", "\ufffd")]


def test_without_a_listener_nothing_is_streamed(gateway: Gateway, image: Path) -> None:
    gateway.content_type, gateway.reply = "application/json", '{"answer": "x"}'
    assert ask(gateway.url, image, "what?", pruner="cls", llm_pruner={"name": "fastv"}) == {"answer": "x"}
    assert b"stream" not in gateway.body
    assert b'name="llm_pruner"\r\n\r\n{"name": "fastv"}' in gateway.body


def test_a_page_of_a_proxy_is_an_error(gateway: Gateway, image: Path) -> None:
    gateway.status, gateway.content_type, gateway.reply = 502, "text/html", "<html>"
    with pytest.raises(AnswerError, match="status 502 and no JSON"):
        ask(gateway.url, image, "what?", on_text=lambda text: None)


@pytest.mark.parametrize("words", [["--pruner-params", "[1]"], ["--llm-pruner-params", "{"], ["--json", "--stream"]])
def test_meaningless_options_are_refused(words: list[str], image: Path) -> None:
    with pytest.raises(SystemExit) as status:
        main(["ask", str(image), "what?", *words])
    assert status.value.code == 2
