"""The `fovea` command: requests to a gateway, output, and exit status."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fovea.cli import main
from fovea.client import AnswerError, ask
from fovea.client.gateway_url import gateway_url
from tests.plain_gateway import PlainGateway, event
from tests.video_heads import MP4_HEAD

DEMO = Path(__file__).parents[4] / "lab" / "demo" / "demo.png"
EXPLAINED = {
    "model": "m",
    "usage": {"visual_tokens_total": 4, "visual_tokens_kept": 1},
    "explain": {"pruner": "cls", "grid": [2, 2], "kept": [0], "merged_into": [[0, -1], [-1, -1]]},
}
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def image(tmp_path: Path) -> str:
    return str(shutil.copy(DEMO, tmp_path / "demo.png"))


@pytest.fixture
def answering(gateway: PlainGateway) -> PlainGateway:
    gateway.answers({"answer": "pink"})
    return gateway


def fields(gateway: PlainGateway) -> dict[str, str]:
    return {name: value.decode() for name, value in gateway.form if name not in ("image", "video")}


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Standard error of a wrong command line."""
    try:
        status = main(words)
    except SystemExit as left:
        status = left.code
    error = capsys.readouterr().err
    assert status == 2, error
    usage, message = error.strip().split("\n")
    assert usage.startswith(f"usage: fovea {words[0]} ")
    return message


@pytest.mark.parametrize("words", [["ask", "{image}", "what?"], ["explain", "{image}", "what?"], ["chat", "{image}"]])
def test_a_refused_caller_reads_where_a_key_is_given(
    words: list[str],
    gateway: PlainGateway,
    image: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gateway.answers({"error": {"message": "no accepted API key", "code": "invalid_api_key"}}, 401)
    command = [*(word.format(image=image) for word in words), "--url", gateway.url]
    for key, says in (
        ([], "; give the key as the variable FOVEA_API_KEY, or as --api-key KEY\n"),
        (["--api-key", "k1"], "; the key of FOVEA_API_KEY or --api-key is none of this gateway's\n"),
    ):
        piped(monkeypatch, b"what?\n")
        assert main([*command, *key]) == 1
        assert capsys.readouterr().err == f"fovea: no accepted API key (status 401){says}"


# The gateway's URL


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("{url}", "/v1/answer"),
        ("{url}/", "/v1/answer"),
        ("{url}//", "/v1/answer"),
        ("  {url}/ ", "/v1/answer"),
        ("{url}/prefix", "/prefix/v1/answer"),
        ("{url}/a/prefix/", "/a/prefix/v1/answer"),
        ("{address}", "/v1/answer"),
        ("{address}/prefix/", "/prefix/v1/answer"),
        ("localhost:{port}", "/v1/answer"),
        ("HTTP://LOCALHOST:{port}", "/v1/answer"),
    ],
)
def test_a_url_is_taken_as_people_write_it(answering: PlainGateway, image: str, written: str, path: str) -> None:
    port = answering.server_port
    url = written.format(url=answering.url, address=f"127.0.0.1:{port}", port=port)
    assert main(["ask", image, "what?", "--url", url]) == 0
    assert answering.path == path
    assert ask(url, Path(image), "what?") == {"answer": "pink"}
    assert answering.path == path


@pytest.mark.parametrize(
    "url",
    [
        *("", " ", "ftp://h", "http:/h:8000", "https:h", "http://", "http://h:port", "http://h:70000", "http://h:0"),
        *("//h:1", "http://h/?a=b", "http://h/#a", "http://[::1", "http://a\x00b", "http://\udcff", ":8000"),
    ],
)
def test_invalid_urls_are_refused_with_what_is_accepted(
    image: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "http://HOST:PORT" in refused(["ask", image, "what?", "--url", url], capsys)
    assert "http://HOST:PORT" in refused(["explain", image, "what?", "--url", url], capsys)
    with pytest.raises(AnswerError, match="http://HOST:PORT"):
        ask(url, Path(image), "what?")


def test_the_base_url_of_an_openai_client_is_taken() -> None:
    for written in ("http://h:1/v1", "h:1/v1/", "http://h:1"):
        assert gateway_url(written) == "http://h:1"
    assert gateway_url("https://h/prefix/v1") == "https://h/prefix"


def test_addresses_of_the_sixth_version_have_brackets() -> None:
    assert gateway_url("[::1]:8000/") == "http://[::1]:8000"


def test_an_empty_variable_is_none(
    answering: PlainGateway, image: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOVEA_URL", f"{answering.url}/")
    assert main(["ask", image, "what?"]) == 0
    monkeypatch.setenv("FOVEA_URL", "")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["ask", "--help"])
    assert "http://127.0.0.1:8000" in capsys.readouterr().out
    monkeypatch.setenv("FOVEA_URL", "ftp://h")
    assert "http://HOST:PORT" in refused(["ask", image, "what?"], capsys)


def test_a_proxy_in_the_environment_is_not_asked(
    answering: PlainGateway, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, NOBODY)
    assert main(["ask", image, "what?", "--url", answering.url]) == 0


def test_a_password_in_a_url_is_not_printed(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", image, "what?", "--url", "http://user:secret@127.0.0.1:9/"]) == 1
    error = capsys.readouterr().err
    assert "http://127.0.0.1:9:" in error
    assert "secret" not in error


@pytest.mark.parametrize(
    ("reply", "status", "says"),
    [
        ([1], 200, "no JSON object"),
        ({"error": "broken"}, 500, '{"error": "broken"} (status 500)'),
        ({"error": {"message": "too large"}}, 413, "too large (status 413)"),
        ({"detail": "x"}, 404, "(status 404)"),
    ],
)
def test_responses_of_other_servers_are_errors_in_one_line(
    gateway: PlainGateway, image: str, reply: Any, status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers(reply, status)
    assert main(["ask", image, "what?", "--url", gateway.url]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_redirect_is_an_error_with_the_new_address(
    gateway: PlainGateway, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.status, gateway.content_type, gateway.location = 308, "text/html", "https://elsewhere/v1/answer"
    assert main(["ask", image, "what?", "--url", gateway.url]) == 1
    assert "https://elsewhere/v1/answer" in capsys.readouterr().err


# Images and videos


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


# Options


def test_options_of_ask_become_fields(answering: PlainGateway, image: str) -> None:
    options = ["--seed", "7", "--stop", "a b", "--stop", ".", "--top-p", "0.5", "--temperature", "1.5"]
    options += ["--wire-dtype", "int8", "--max-wire-bytes", "900", "--cache", "bypass", "--keep-tokens", "auto"]
    options += ["--max-tokens", "3", "--timeout-s", "9", "--pruner", "fovea", "--pruner-params", '{"seed": 1}']
    options += ["--llm-pruner", "fastv", "--llm-keep-ratio", "0.5", "--num-frames", "2", "--video-budget", "whole"]
    options += ["--image-fit", "pad", "--top-k", "9", "--min-p", "0.25", "--repetition-penalty", "1.5"]
    options += ["--presence-penalty", "0.5", "--frequency-penalty", "0.125"]
    assert main(["ask", image, *options, "what?", "--url", answering.url]) == 0
    assert [value for name, value in answering.form if name == "stop"] == [b"a b", b"."]
    assert {name: value for name, value in fields(answering).items() if name != "stop"} == {
        "question": "what?",
        "timeout_s": "9.0",
        "seed": "7",
        "top_p": "0.5",
        "temperature": "1.5",
        "wire_dtype": "int8",
        "max_wire_bytes": "900",
        "cache": "bypass",
        "keep_tokens": "auto",
        "max_tokens": "3",
        "pruner": "fovea",
        "pruner_params": '{"seed": 1}',
        "llm_pruner": '{"name": "fastv", "keep_ratio": 0.5}',
        "num_frames": "2",
        "video_budget": "whole",
        "image_fit": "pad",
        "top_k": "9",
        "min_p": "0.25",
        "repetition_penalty": "1.5",
        "presence_penalty": "0.5",
        "frequency_penalty": "0.125",
    }


def test_options_of_explain_become_fields(gateway: PlainGateway, image: str, tmp_path: Path) -> None:
    gateway.answers(EXPLAINED)
    options = ["--keep-tokens", "auto", "--pruner", "fovea", "--pruner-params", "{}", "--cache", "refresh"]
    options += ["--timeout-s", "9", "--maps", "--out", str(tmp_path / "x.webp")]
    assert main(["explain", image, *options, "what?", "--url", gateway.url]) == 0
    assert fields(gateway) == {
        "question": "what?",
        "timeout_s": "9.0",
        "keep_tokens": "auto",
        "pruner": "fovea",
        "pruner_params": "{}",
        "cache": "refresh",
        "maps": "true",
        "format": "json",
    }


def test_options_that_are_left_out_are_not_sent(answering: PlainGateway, image: str) -> None:
    assert main(["ask", image, "what?", "--url", answering.url]) == 0
    assert fields(answering) == {"question": "what?", "timeout_s": "60.0"}


@pytest.mark.parametrize("command", ["ask", "explain"])
@pytest.mark.parametrize(
    ("option", "values", "accepted"),
    [
        ("--keep-tokens", ["0", "abc", "-1", "1.5", "", "Auto", "5000000000"], "a whole number of at least 1, or auto"),
        ("--keep-ratio", ["0", "2", "-0.5", "nan", "inf", "x"], "above 0 and at most 1"),
        ("--pruner-params", ["[1]", "{", "", "1", "[" * 20_000], "a JSON object"),
        ("--timeout-s", ["0", "-1", "nan", "inf", "x"], "a number of seconds above 0"),
        ("--cache", ["no"], "'use', 'refresh', 'bypass'"),
    ],
)
def test_values_are_refused_with_what_is_accepted(
    command: str, option: str, values: list[str], accepted: str, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in values:
        assert accepted in refused([command, image, "what?", option, value], capsys)


@pytest.mark.parametrize(
    ("option", "values", "accepted"),
    [
        ("--seed", ["-1", "x", "1.5", str(2**64)], "0 to 2^64 - 1"),
        ("--top-p", ["0", "1.1", "nan"], "above 0 and at most 1"),
        ("--temperature", ["-1", "2.1", "nan", "x"], "from 0 to 2"),
        ("--top-k", ["0", "x"], "at least 1"),
        ("--min-p", ["-0.1", "1.1", "nan"], "from 0 to 1"),
        ("--repetition-penalty", ["0", "11", "nan"], "from 0.01 to 10"),
        ("--presence-penalty", ["3", "nan"], "from -2 to 2"),
        ("--frequency-penalty", ["3", "nan"], "from -2 to 2"),
        ("--stop", [""], "at least one character"),
        ("--wire-dtype", ["float8"], "'entropy'"),
        ("--max-wire-bytes", ["0", "x"], "at least 1"),
        ("--max-tokens", ["0", "x"], "at least 1"),
        ("--num-frames", ["0", "x"], "at least 1"),
        ("--llm-keep-tokens", ["0", "auto"], "at least 1"),
        ("--llm-keep-ratio", ["2"], "at most 1"),
        ("--llm-pruner-params", ["{"], "a JSON object"),
        ("--explain", ["kept.txt", "kept"], ".png"),
    ],
)
def test_values_of_ask_are_refused_with_what_is_accepted(
    option: str, values: list[str], accepted: str, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in values:
        message = refused(["ask", image, "what?", option, value], capsys)
        assert accepted in message
        assert not re.search(r"invalid \w+ value|_\w+_|lambda|function", message)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ask"], "the question is missing"),
        (["ask", "{image}"], "the question is missing"),
        (["ask", "{image}", "{image}"], "the question is missing"),
        (["ask", "--video", "x.mp4"], "the question is missing"),
        (["ask", "--video", "x.mp4", "{image}"], "the question is missing"),
        (["ask", "{image}", "https://example.com/x.png"], "the question is missing"),
        (["ask", "-"], "the question is missing"),
        (["ask", "what?"], "an image before the question"),
        (["ask", "{image}", "-x"], "that starts with - after --"),
        (["ask", "{image}", "what?", "--bogus"], "--bogus"),
        (["ask", "{image}", "what?", "--json", "--stream"], "not allowed with"),
        (["ask", "{image}", "what?", "--keep-tokens", "1", "--keep-ratio", "1"], "not allowed with"),
        (["ask", "{image}", "what?", "--llm-keep-tokens", "3"], "go with --llm-pruner"),
        (["ask", "-", "-", "what?"], "more than once"),
        (["ask", "-", "--video", "-", "what?"], "more than once"),
        (["ask", "{image}", "{image}", "what?", "--explain", "x.png"], "draws one image"),
        (["ask", "{image}", "--video", "x.mp4", "what?", "--explain", "x.png"], "draws one image"),
        (["ask", "https://example.com/x.png", "what?", "--explain", "x.png"], "the image is a URL"),
        (["explain"], "an image and a question"),
        (["explain", "{image}"], "the question is missing"),
        (["explain", "what?"], "an image before the question"),
        (["explain", "https://example.com/x.png", "what?"], "the image is a URL"),
        (["explain", "{image}", "{image}", "what?"], "one image is drawn; '/"),
        (["explain", "{image}", "what?", "{image}"], "one image is drawn; '/"),
        (["explain", "{image}", "-", "what?"], "one image is drawn; '-' is in the place of a question"),
        (
            ["explain", "{image}", "https://example.com/x.png", "what?"],
            "one image is drawn; 'https://example.com/x.png' is in the place of a question",
        ),
        (["explain", "{image}", "{image}"], "the question is missing"),
        (["explain", "{image}", "what?", "--out", "x.txt"], ".png"),
        (["up", "--text-tower", "x"], "--text-tower goes with --model"),
        (["up", "--listen", "8000"], "HOST:PORT"),
        (["up", "--listen", ":8000x"], "HOST:PORT"),
        (["up", "--listen", "127.0.0.1:0"], "HOST:PORT"),
        (["up", "--listen", "127.0.0.1:70000"], "HOST:PORT"),
        (["up", "word"], "unrecognized arguments: word"),
        (["explain", "--video", "clip.mp4", "What?"], "a video is not drawn; fovea ask"),
        (["explain", "--colour", "a.png", "What?"], "fovea explain --help lists the options"),
        (["ask", "{image}", "what?", "--max_tokenss", "3"], "did you mean --max-tokens?"),
        (["ask", "{image}", "what?", "--model", "m@desap:4"], "--pruner and --keep-tokens choose its pruning"),
        (["doctor", "--lsten", "x"], "did you mean --listen?"),
        (["up", "--", "word"], "unrecognized arguments: word"),
        (
            ["up", "org/model", "--port", "9000"],
            "the model is named as --model org/model; in place of --port use --listen",
        ),
        (["up", "--host=0.0.0.0", "--port=9000"], "in place of --port use --listen HOST:PORT"),
        (["up", "--max_model_len", "8192"], "in place of --max-model-len use LLM_MAX_MODEL_LEN=N"),
        (["up", "--gpu-memory-utilization", "0.9"], "LLM_KV_CACHE_GIB=N"),
        (["up", "--tensor-parallel-size", "2"], '{"tensor_parallel_size": N}'),
        (["up", "--pruner", "none"], "ENCODER_PRUNER=NAME"),
        (["up", "--max-question-chars", "9"], "in place of --max-question-chars use GATEWAY_MAX_QUESTION_CHARS"),
        (["demo", "--overlay", "x"], ".png"),
    ],
)
def test_a_wrong_command_line_shows_the_usage_and_exits_with_2(
    words: list[str], says: str, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused([word.format(image=image) for word in words], capsys)


def test_the_command_of_vllm_is_answered_with_that_of_fovea(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["serve", "org/model", "--port", "8000"])
    assert left.value.code == 2
    assert "fovea up --model MODEL starts the services" in capsys.readouterr().err


@pytest.mark.parametrize("question", ["-x", "-how many?", "--url", "-", "-5"])
def test_a_question_may_start_with_a_dash(answering: PlainGateway, image: str, question: str) -> None:
    if question != "-":
        assert main(["ask", image, "--url", answering.url, "--", question]) == 0
        assert fields(answering)["question"] == question
    assert main(["ask", "--url", answering.url, "--", image, f"{question} and"]) == 0
    assert fields(answering)["question"] == f"{question} and"


def test_words_stand_on_both_sides_of_options(answering: PlainGateway, image: str) -> None:
    assert main(["ask", image, "--url", answering.url, image, "--seed", "1", "what?"]) == 0
    assert [name for name, _ in answering.form].count("image") == 2
    assert fields(answering)["question"] == "what?"


def test_a_question_that_is_not_text_is_an_error(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", image, os.fsdecode(b"\xff?"), "--url", NOBODY]) == 1
    assert "question is not valid UTF-8 text" in capsys.readouterr().err


# How a command ends


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
