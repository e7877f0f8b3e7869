"""Options and words of a command: what becomes a field, and what is refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from fovea.cli import main
from tests.plain_gateway import PlainGateway
from tests.unit.fovea.cli.commands import EXPLAINED, NOBODY, fields, refused


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
