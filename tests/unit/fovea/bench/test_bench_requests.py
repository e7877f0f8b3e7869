"""Requests of `fovea bench`, and what it reports of the answers."""

from __future__ import annotations

import base64
import io
import threading
from pathlib import Path

import pytest
from PIL import Image

from fovea.cli import main
from tests.unit.fovea.bench.chat_endpoint import USAGE, ChatEndpoint, Exchange, answer
from tests.unit.fovea.bench.runs import SMALL, bench


def decoded(url: str) -> tuple[str, bytes]:
    head, _, data = url.partition(";base64,")
    return head, base64.b64decode(data)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_url_may_end_in_v1(endpoint: ChatEndpoint, suffix: str) -> None:
    assert main(["bench", endpoint.url + suffix, "--requests", "1", *SMALL]) == 0
    assert {exchange.path for exchange in endpoint.exchanges} == {"/v1/chat/completions"}


def test_a_request_is_a_streamed_completion_about_images(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    words = ["--images-per-request", "2", "--prompt", "what?", "--max-tokens", "9", "--image-format", "png"]
    bench(endpoint, tmp_path, "--requests", "1", *words, "--extra-body", '{"ignore_eos": true, "temperature": 0.5}')
    body = endpoint.exchanges[-1].body
    *images, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "what?"}
    assert {name: value for name, value in body.items() if name != "messages"} == {
        "model": "first",
        "max_tokens": 9,
        "temperature": 0.5,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert len(images) == 2
    for url in endpoint.exchanges[-1].image_urls:
        head, data = decoded(url)
        assert head == "data:image/png"
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.size) == ("PNG", (40, 30))


def test_no_image_of_noise_is_sent_twice(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    for _ in range(2):
        bench(endpoint, tmp_path, "--requests", "3", "--model", "a", "--model", "b", "--images-per-request", "2")
    urls = [url for exchange in endpoint.exchanges for url in exchange.image_urls]
    assert len(urls) == 2 * 2 * (1 + 3 * 3) * 2
    assert len(set(urls)) == len(urls)


def test_images_of_a_folder_are_sent_unchanged_and_equal_for_all_models(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("b.png", "a.JPG", "notes.txt"):
        (folder / name).write_bytes(name.encode())
    bench_words = ["bench", endpoint.url, "--images", str(folder), "--model", "m", "--model", "n", "--requests", "2"]
    assert main([*bench_words, "--rounds", "1"]) == 0
    sent = {
        model: [exchange.image_urls for exchange in endpoint.exchanges if exchange.model == model] for model in "mn"
    }
    assert sent["m"] == sent["n"]
    assert [decoded(url) for urls in sent["m"] for url in urls] == [
        ("data:image/jpeg", b"a.JPG"),
        ("data:image/png", b"b.png"),
        ("data:image/jpeg", b"a.JPG"),
    ]


def test_a_folder_without_images_is_an_error(
    endpoint: ChatEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", endpoint.url, "--images", str(tmp_path)]) == 1
    assert ".png" in capsys.readouterr().err
    assert main(["bench", endpoint.url, "--images", str(tmp_path / "none")]) == 1
    assert "cannot read" in capsys.readouterr().err
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    assert main(["bench", endpoint.url, "--images", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "gone.png" in error
    assert len(error.splitlines()) == 1


def test_models_take_turns_after_their_warm_ups(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    result = bench(
        endpoint, tmp_path, *("--model", "m", "--model", "n", "--requests", "1", "--warmup", "2", "--rounds", "4")
    )
    assert [exchange.model for exchange in endpoint.exchanges] == [*"mmnn", *"mn", *"nm", *"mn", *"nm"]
    assert [(row["model"], row["requests"], len(row["rounds"])) for row in result["results"]] == [
        ("m", 4, 4),
        ("n", 4, 4),
    ]


def test_each_level_of_concurrency_has_that_many_requests_in_flight(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    lock = threading.Lock()
    in_flight = peak = 0
    # Every second request of a pair waits for the other one: one client alone would never pass.
    together = threading.Barrier(2)

    def script(exchange: Exchange) -> None:
        nonlocal in_flight, peak
        with lock:
            in_flight += 1
            peak = max(peak, in_flight)
        together.wait(60)
        with lock:
            in_flight -= 1
        answer(exchange)

    endpoint.script = script
    result = bench(endpoint, tmp_path, "--concurrency", "2,4", "--requests", "8")
    assert peak <= 4
    assert [(row["concurrency"], row["requests"], row["failed"]) for row in result["results"]] == [(2, 8, 0), (4, 8, 0)]


def test_figures_come_from_usage(endpoint: ChatEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = bench(endpoint, tmp_path, "--requests", "4", "--concurrency", "2")
    (row,) = result["results"]
    assert (row["requests"], row["failed"], row["answers_without_usage"]) == (4, 0, 0)
    assert (row["mean_prompt_tokens"], row["mean_image_tokens"], row["mean_image_tokens_before"]) == (70, 64, 576)
    assert row["mean_output_tokens"] == USAGE["completion_tokens"]
    for measure in ("ttft_ms", "tpot_ms", "latency_ms"):
        assert 0 <= row[measure]["p50"] <= row[measure]["p95"] <= row[measure]["p99"]
    assert result["complete"]
    assert result["ratios"] == []
    assert {"fovea", "python", "httpx"} <= set(result["versions"])
    assert result["client_machine"]["cores"]
    assert result["command"].startswith(f"fovea bench {endpoint.url} --image-size 40x30 ")
    printed = capsys.readouterr()
    assert "TTFT p50 ms" in printed.out
    assert printed.err == f"concurrency 2, round 1 of 1, first: 4 answers in {row['seconds']:.1f} s, 0 failed\n"


def test_without_usage_chunks_with_text_are_counted(
    endpoint: ChatEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.start()
        exchange.text("a")
        exchange.text("b")
        exchange.end()

    endpoint.script = script
    (row,) = bench(endpoint, tmp_path, "--requests", "2")["results"]
    assert (row["mean_output_tokens"], row["answers_without_usage"], row["mean_prompt_tokens"]) == (2, 2, None)
    assert "without usage" in capsys.readouterr().out


def test_an_answer_without_text_has_a_latency_only(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    def script(exchange: Exchange) -> None:
        exchange.start()
        exchange.end({"completion_tokens": 1})

    endpoint.script = script
    (row,) = bench(endpoint, tmp_path, "--requests", "1")["results"]
    assert row["ttft_ms"] is None
    assert row["tpot_ms"] is None
    assert row["latency_ms"]


def test_two_models_are_compared_round_by_round(
    endpoint: ChatEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = bench(endpoint, tmp_path, "--model", "m@none", "--model", "m@desap:64", "--requests", "2")
    (ratio,) = result["ratios"]
    assert (ratio["model"], ratio["baseline"]) == ("m@desap:64", "m@none")
    spread = ratio["requests_per_s"]
    assert 0 < spread["lowest"] <= spread["median"] <= spread["highest"]
    assert "ratio to m@none" in capsys.readouterr().out
