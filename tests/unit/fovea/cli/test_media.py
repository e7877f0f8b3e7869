"""Images and videos of a command: files, URLs, standard input, and those that are refused."""

from __future__ import annotations

import base64
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from fovea.cli import main
from tests.plain_gateway import PlainGateway
from tests.unit.fovea.cli.commands import DEMO, EXPLAINED, NOBODY, piped, refused
from tests.video_heads import MP4_HEAD


def test_standard_input_is_an_image(answering: PlainGateway, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, DEMO.read_bytes())
    assert main(["ask", image, "-", "what?", "--url", answering.url]) == 0
    assert [value for name, value in answering.form if name == "image"] == [DEMO.read_bytes()] * 2


def test_standard_input_is_a_video(answering: PlainGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, b"\x1aE\xdf\xa3 a video")
    assert main(["ask", "--video", "-", "what?", "--url", answering.url]) == 0
    assert ("video", b"\x1aE\xdf\xa3 a video") in answering.form


def test_standard_input_is_explained_for_every_question_and_drawn(
    gateway: PlainGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.answers(EXPLAINED)
    piped(monkeypatch, DEMO.read_bytes())
    out = tmp_path / "explain.png"
    assert main(["explain", "-", "what?", "--url", gateway.url, "where?", "--out", str(out)]) == 0
    assert [dict(form)["question"] for form in gateway.forms] == [b"what?", b"where?"]
    assert {dict(form)["image"] for form in gateway.forms} == {DEMO.read_bytes()}
    with Image.open(out) as drawn:
        assert drawn.height > 700  # a row for each question


def test_a_named_pipe_is_read_to_its_end(gateway: PlainGateway, tmp_path: Path) -> None:
    gateway.answers(EXPLAINED | {"answer": "pink"})
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[DEMO.read_bytes()])
    writer.start()
    assert main(["ask", str(pipe), "what?", "--url", gateway.url, "--explain", str(tmp_path / "kept.png")]) == 0
    writer.join()
    assert dict(gateway.form)["image"] == DEMO.read_bytes()
    assert (tmp_path / "kept.png").is_file()


@pytest.mark.parametrize(
    "url", ["https://example.com/x.png", "HTTPS://example.com/x.png?a=b", "data:image/png;base64,AA"]
)
def test_the_url_of_an_image_reaches_the_gateway_as_it_was_written(answering: PlainGateway, url: str) -> None:
    assert main(["ask", url, "what?", "--url", answering.url]) == 0
    assert ("images", url.encode()) in answering.form
    assert main(["ask", "--video", url, "what?", "--url", answering.url]) == 0
    assert ("video", url.encode()) in answering.form


def test_files_and_urls_keep_their_order(answering: PlainGateway, image: str) -> None:
    assert main(["ask", image, "https://example.com/x.png", "what?", "--url", answering.url]) == 0
    file = f"data:image/png;base64,{base64.b64encode(DEMO.read_bytes()).decode()}"
    assert [value.decode() for name, value in answering.form if name == "images"] == [file, "https://example.com/x.png"]


def test_file_names_are_not_sent(answering: PlainGateway, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"secret\xff.png")
    shutil.copy(DEMO, path)
    assert main(["ask", str(path), "what?", "--url", answering.url]) == 0
    assert b"secret" not in answering.body


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.png", "what?"], "cannot read none.png: No such file"),
        ([".", "what?"], "cannot read .: Is a directory"),
        (["/dev/null", "what?"], "/dev/null is empty"),
        (["--video", "none.mp4", "what?"], "cannot read none.mp4"),
        (["-", "what?"], "standard input is empty"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    piped(monkeypatch, b"")
    assert main(["ask", *words, "--url", NOBODY]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"fovea: {says}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ask", "{video}"], "is an MP4 video; a video is given as --video '{video}'"),
        (["ask", "{image}", "{video}"], "is an MP4 video; a video is given as --video '{video}'"),
        (["ask", "-"], "standard input is an MP4 video; a video is given as --video -"),
        (["ask", "--video", "{video}", "{video}"], "is an MP4 video; --video takes one video"),
        (["explain", "{video}"], "a video is not drawn; fovea ask --video '{video}' answers questions about it"),
    ],
)
def test_a_video_in_the_place_of_an_image_leads_to_the_option_before_it_is_sent(
    words: list[str],
    says: str,
    answering: PlainGateway,
    image: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    video = tmp_path / "my clip"  # its content counts
    video.write_bytes(MP4_HEAD)
    piped(monkeypatch, MP4_HEAD)
    given = [word.format(image=image, video=video) for word in words]
    assert says.format(video=video) in refused([*given, "what?", "--url", answering.url], capsys)
    assert not answering.forms


def test_a_pipe_without_end_is_not_held_in_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fovea.client.form_parts.MAX_STREAM_BYTES", 1000)
    assert main(["ask", "/dev/zero", "what?", "--url", NOBODY]) == 1
    assert "more than the 1,000 bytes" in capsys.readouterr().err


def test_a_terminal_and_a_closed_input_are_no_images(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    master, slave = os.openpty()
    with os.fdopen(slave) as terminal, os.fdopen(master, "rb"):
        monkeypatch.setattr(sys, "stdin", terminal)
        assert "nothing is piped" in refused(["ask", "-", "what?", "--url", NOBODY], capsys)
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["ask", "-", "what?", "--url", NOBODY]) == 1
    assert "standard input is closed" in capsys.readouterr().err
