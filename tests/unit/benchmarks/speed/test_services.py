"""Benchmarks of whole answers: the real services beside the unsplit model, and pruned beside unpruned requests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from benchmarks.checkpoints.random_llava import Checkpoint, provide
from benchmarks.speed import answer, concurrency, services
from benchmarks.speed.answer import Services, Unsplit
from fovea.processes.stack import StackError

CPU = torch.device("cpu")
IMAGE = b"a file that no scripted gateway decodes"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    provide(folder, "tiny")
    return folder


def run(command: Any, checkpoints: Path, out: Path, *words: str) -> dict[str, Any]:
    words = ("--smoke", "--device", "cpu", *words, "--checkpoint", str(checkpoints), "--out", str(out))
    assert command.main(list(words)) == 0
    (file,) = out.glob("*.json")
    result: dict[str, Any] = json.loads(file.read_text())
    return result


@pytest.mark.slow
def test_both_sides_answer_the_same_question(checkpoints: Path, tmp_path: Path) -> None:
    result = run(answer, checkpoints, tmp_path, "--threads", "1")
    assert result["visual_tokens"] == {"kept": 2, "total": 16}
    assert set(result["rounds"]) == {"fovea", "unsplit"}
    assert all(len(times) == 2 and min(times) > 0 for times in result["rounds"].values())
    assert "| unsplit model, `generate` | 16 |" in answer.markdown(result)
    assert "x, m" not in answer.markdown(result), "a tiny model has no goal"
    result |= {"size": "7b", "tokens": 16, "ratio": {"median": 0.46, "lowest": 0.4, "highest": 0.5}}
    assert "| 0.46 [0.40, 0.50] | <= 0.5x, met |" in answer.markdown(result)
    assert "<= 0.45x, missed" in answer.markdown(result | {"device": "cuda"})


@pytest.mark.slow
def test_pruned_and_unpruned_windows_take_turns(checkpoints: Path, tmp_path: Path) -> None:
    words = ("--in-flight", "2", "--rounds", "2", "--llm-flags=--max-batch-delay-ms 0")
    result = run(concurrency, checkpoints, tmp_path, *words)
    assert result["visual_tokens"] == {"desap": 2, "none": 16}
    assert [(cell["round"], cell["pruner"]) for cell in result["cells"]] == [
        *((0, "desap"), (0, "none")),
        *((1, "none"), (1, "desap")),
    ]
    assert all(cell["per_second"] > 0 and cell["median_s"] > 0 for cell in result["cells"])
    assert "llm service: `--max-batch-delay-ms 0`" in concurrency.markdown(result)


def _cells(in_flight: int, pruned: float, unpruned: float) -> list[dict[str, Any]]:
    return [
        {"round": number, "in_flight": in_flight, "pruner": side, "per_second": rate, "median_s": 0.5}
        for number in range(2)
        for side, rate in (("desap", pruned), ("none", unpruned))
    ]


def _scripted(monkeypatch: pytest.MonkeyPatch, *cells: dict[str, Any]) -> None:
    measured = {"visual_tokens": {"desap": 64, "none": 576}, "cells": list(cells)}
    monkeypatch.setattr(concurrency, "_measure", lambda *words: measured)


def test_pruning_that_lowers_the_rate_is_a_failure(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--device", "cpu", "--size", "tiny", "--checkpoint", str(checkpoints)]
    _scripted(monkeypatch, *_cells(1, 3, 2), *_cells(8, 2, 3))
    assert concurrency.main(words) == 1
    _scripted(monkeypatch, *_cells(1, 3, 2), *_cells(8, 3, 3))
    assert concurrency.main(words) == 0


def test_goals_of_a_gpu_are_those_of_the_full_model(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _scripted(monkeypatch, *_cells(8, 30, 20), *_cells(32, 58, 29))
    result = run(concurrency, checkpoints, tmp_path, "--tokens", "16") | {"device": "cuda", "size": "7b"}
    assert "| 1.50 [1.50, 1.50] | >= 1x, met |" in concurrency.markdown(result)
    assert "| 2.00 [2.00, 2.00] | >= 1.9x, met |" in concurrency.markdown(result)
    result["provenance"]["machine"]["accelerator"] = {
        "name": "NVIDIA H200",
        "count": 1,
        "cuda": "13.0",
        "driver": "580",
    }
    assert ">= 1.9x, met; >= 60/s, missed |" in concurrency.markdown(result)


def _replies(status: int = 200, tokens: int = 4, features: str = "miss") -> httpx.Client:
    """Client of a scripted gateway."""
    reply = {"answer": "a cat", "usage": {"completion_tokens": tokens}, "cache": {"features": features}}
    transport = httpx.MockTransport(lambda request: httpx.Response(status, json=reply))
    return httpx.Client(transport=transport, base_url="http://gateway")


def test_answers_that_are_refused_short_or_cached_are_not_timed() -> None:
    assert Services(_replies(), 4).answer(IMAGE, "what?") == "a cat"
    with pytest.raises(RuntimeError, match="the gateway replied 429"):
        Services(_replies(status=429), 4).answer(IMAGE, "what?")
    for replies in (_replies(tokens=3), _replies(features="hit")):
        with pytest.raises(RuntimeError, match="ended early, or came from a cache"):
            Services(replies, 4).answer(IMAGE, "what?")


@pytest.mark.parametrize(("status", "tokens", "message"), [(429, 2, "replied 429"), (200, 1, "ended early")])
def test_concurrent_answers_that_are_refused_or_short_are_not_counted(status: int, tokens: int, message: str) -> None:
    reply = httpx.Response(status, json={"usage": {"completion_tokens": tokens, "visual_tokens_kept": 2}})
    with pytest.raises(RuntimeError, match=message):
        concurrency._Check(2)(reply)


def test_an_unsplit_answer_that_ends_early_is_not_timed(checkpoints: Path) -> None:
    unsplit = Unsplit(provide(checkpoints, "tiny").model, CPU, torch.float32, 4)
    unsplit.model.generation_config.eos_token_id = list(range(512))
    with pytest.raises(RuntimeError, match="ended early, with 1 tokens"):
        unsplit.answer(answer.jpeg_files(1)[0], "what?")


@pytest.mark.slow
def test_services_that_do_not_start_show_their_log(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(checkpoints / "tiny" / "llava", tmp_path / "llava")
    (tmp_path / "llava" / "tokenizer.json").unlink()
    monkeypatch.setattr(
        services, "provide", lambda *words: Checkpoint(tmp_path / "llava", checkpoints / "tiny" / "clip")
    )
    with pytest.raises(StackError):
        concurrency.main(["--smoke", "--device", "cpu"])
    assert "tokenizer" in capsys.readouterr().err
