"""Summary, report and plot of `python -m benchmarks.engine`."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.speed import engine
from benchmarks.speed.engine_report import markdown, plot, summary

CLIENTS = (1, 4)


def result_of(seconds):
    """Two rounds of two repeats; `seconds(engine, clients, kept, round, repeat)` for 8 requests of 16 tokens."""
    runs = [
        {
            "engine": name,
            "round": number,
            "repeat": repeat,
            "clients": clients,
            "kept": kept,
            "seconds": seconds(name, clients, kept, number, repeat),
            "requests": 8,
            "tokens": 128,
            "first_token_ms": [10.0, 20.0, 30.0],
        }
        for name, clients, kept, number, repeat in itertools.product(
            engine.ENGINES, CLIENTS, (576, 64), range(2), range(2)
        )
    ]
    result = {
        "provenance": {
            "command": "python -m benchmarks.engine",
            "commit": "0123456789ab",
            "date": "2026-01-01",
            "versions": {"torch": "2", "transformers": "5", "vllm": "0.32"},
            "machine": {"processor": "a processor", "cores": 2},
        },
        "seed": 0,
        "model": {"hidden_size": 1024, "layers": 3, "layer_parameters": 10**7, "dtype": "bfloat16"},
        "threads": 1,
        "words": 40,
        "answer_tokens": 16,
        "budgets": [576, 64],
        "runs": runs,
    }
    return result | {"summary": summary(result)}


def test_a_pruned_run_is_compared_with_the_unpruned_one_of_its_repeat():
    result = result_of(
        lambda name, clients, kept, number, repeat: (4.0 if kept == 576 else 1.0) * (1 + number + repeat)
    )
    row = result["summary"][0]
    assert row["speedup"] == {"median": 4.0, "lowest": 4.0, "highest": 4.0, "pairs": 4}
    assert row["unpruned"]["requests_per_s"] == {"median": 1.0, "lowest": round(8 / 12, 3), "highest": 2.0}
    assert row["pruned"]["tokens_per_s"]["highest"] == 128
    assert row["pruned"]["first_token_ms"] == {"p50": 20.0, "p95": 30.0}


def test_the_report_says_where_pruning_lowers_throughput():
    def seconds(name, clients, kept, number, repeat):
        slower = (name, clients, number, repeat) == ("vllm", 4, 1, 1)
        return 1.0 if kept == 576 else 1.1 if slower else 0.5

    assert "In some pair of runs, yes: vllm at 4." in markdown(result_of(seconds))
    better = markdown(result_of(lambda name, clients, kept, number, repeat: kept))
    assert "No: every pruned run of every cell was faster" in better
    assert "probability 0.938" in better


def test_engines_are_compared_by_their_medians():
    text = markdown(result_of(lambda name, clients, kept, number, repeat: 3.0 if name == "transformers" else 2.0))
    assert "| 1 | 1.50 | 1.50 |" in text


def test_a_plot_is_drawn(tmp_path):
    plot(result_of(lambda name, clients, kept, number, repeat: kept), tmp_path / "engine.png")
    assert (tmp_path / "engine.png").stat().st_size > 1000


def test_without_vllm_it_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        engine.main([])
    assert "make test-vllm" in capsys.readouterr().err
