"""Streams that decode while long prompts arrive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.speed import stalls
from benchmarks.speed.stall_load import Observations


def test_streams_and_long_prompts_are_timed_on_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stalls.main(["--smoke", "--device", "cpu", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "stalls_cpu.json").read_text())
    assert result["long_prompt_tokens"] == 636
    assert [(run["round"], run["side"]) for run in result["runs"]] == [
        (0, "256"),
        (0, "whole"),
        (1, "whole"),
        (1, "256"),
    ]
    for run in result["runs"]:
        assert len(run["long_ttfts_ms"]) == 2
        assert run["stream_requests"] >= 2
        assert 0 < run["tpot_p50_ms"] <= run["tpot_p99_ms"] <= run["longest_gap_ms"]
        assert 0 < run["stream_ttft_p50_ms"] <= run["stream_ttft_p99_ms"]
        assert 0 < run["long_ttft_p50_ms"] <= run["long_ttft_p99_ms"]
    assert min(result["alone_ms"].values()) > 0
    report = capsys.readouterr().out
    assert report.count("| 256 tokens |") == report.count("| whole prompts |") == 2


def test_a_gap_is_a_tpot_and_the_first_token_is_not() -> None:
    observed = Observations(gaps=[0.01] * 98 + [0.5], stream_ttfts=[0.2], long_ttfts=[1.0, 2.0], duration=10.0)
    summary = observed.summary()
    assert (summary["tokens"], summary["tokens_per_s"]) == (100, 10.0)
    assert (summary["tpot_p50_ms"], summary["longest_gap_ms"]) == (10.0, 500.0)
    assert 10 < summary["tpot_p99_ms"] < 500
    assert summary["stream_ttft_p99_ms"] == 200.0
    assert (summary["long_ttft_p50_ms"], summary["long_ttfts_ms"]) == (1500.0, [1000.0, 2000.0])


def test_answers_of_one_token_have_no_tpot(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        stalls.main(["--smoke", "--answer", "1"])
    assert "--answer: 1 is not accepted; a whole number of at least 2" in capsys.readouterr().err
