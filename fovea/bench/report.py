"""Report of a measurement: tables for the terminal, and the object of a result file."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import httpx

from fovea import __version__
from fovea.bench.machine import processor_name
from fovea.bench.measurement import Measurement
from fovea.bench.spread import Spread
from fovea.bench.statistics import MEASURES, PERCENTILES, Summary, ratios
from fovea.bench.tables import table

__all__ = ["result", "summaries", "text"]


def summaries(run: Measurement) -> list[Summary]:
    """Summaries of the rounds so far, by number of clients and model."""
    keys = sorted({(part.concurrency, part.model) for part in run.rounds}, key=lambda key: _order(run, key))
    return [Summary([part for part in run.rounds if (part.concurrency, part.model) == key]) for key in keys]


def _order(run: Measurement, key: tuple[int, int]) -> tuple[int, int]:
    return list(run.load.concurrency).index(key[0]), key[1]


def text(run: Measurement) -> str:
    """Tables of throughput, latency, ratios and failures of a run with at least one round."""
    found = summaries(run)
    parts = [_throughput(run, found), _latency(run, found)]
    if len(run.models) > 1:
        parts.append(_ratio_table(run, found))
    if any(summary.failures for summary in found):
        parts.append(_failures(run, found))
    uncounted = sum(summary.without_usage for summary in found)
    if uncounted:
        parts.append(f"Answers without usage, whose output tokens are chunks with text: {uncounted}.\n")
    return "\n".join(parts)


def _label(run: Measurement, summary: Summary) -> list[str]:
    return [str(summary.concurrency), run.models[summary.model]]


def _throughput(run: Measurement, found: Iterable[Summary]) -> str:
    header = ["concurrency", "model", "requests", "failed", "requests/s", "output tokens/s"]
    header += ["prompt tokens", "image tokens", "output tokens"]
    rows = [
        [
            *_label(run, summary),
            str(summary.requests),
            str(len(summary.failures)),
            f"{summary.requests_per_s:.2f}",
            f"{summary.output_tokens_per_s:.1f}",
            *(_mean(summary.mean(name)) for name in ("prompt_tokens", "image_tokens", "output_tokens")),
        ]
        for summary in found
    ]
    return table(header, rows, labels=(1,))


def _latency(run: Measurement, found: Iterable[Summary]) -> str:
    names = {"ttft": "TTFT", "tpot": "TPOT", "latency": "latency"}
    header = ["concurrency", "model"]
    header += [f"{names[measure]} p{q} ms" for measure in MEASURES for q in PERCENTILES]
    rows = []
    for summary in found:
        cells = _label(run, summary)
        for measure in MEASURES:
            percentiles = summary.percentiles(measure)
            cells += [_time(None if percentiles is None else percentiles[q]) for q in PERCENTILES]
        rows.append(cells)
    return table(header, rows, labels=(1,))


def _ratio_table(run: Measurement, found: Sequence[Summary]) -> str:
    header = ["concurrency", f"ratio to {run.models[0]}"]
    header += ["requests/s", "output tokens/s", "TTFT p50", "TPOT p50", "latency p50"]
    rows = [
        [*_label(run, summary), *(_spread(spread) for spread in ratios(summary, baseline).values())]
        for summary, baseline in _pairs(found)
    ]
    return table(header, rows, labels=(1,)) + "\nMedian of the rounds [lowest, highest].\n"


def _pairs(found: Sequence[Summary]) -> list[tuple[Summary, Summary]]:
    """Each other model with the first one at the same number of clients."""
    baselines = {summary.concurrency: summary for summary in found if summary.model == 0}
    return [
        (summary, baselines[summary.concurrency])
        for summary in found
        if summary.model > 0 and summary.concurrency in baselines
    ]


def _failures(run: Measurement, found: Iterable[Summary]) -> str:
    rows = [
        [*_label(run, summary), kind, str(count), message.replace("|", "\\|")]
        for summary in found
        for kind, (count, message) in summary.failures_by_kind().items()
    ]
    return table(["concurrency", "model", "failure", "requests", "first message"], rows, labels=(1, 2, 4))


def _mean(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.1f}"


def _spread(spread: Spread | None) -> str:
    return "" if spread is None else spread.text()


def result(run: Measurement, arguments: Sequence[str], *, complete: bool) -> dict[str, Any]:
    """Object of a result file, without secrets.

    Args:
        run: measurement.
        arguments: arguments of the command.
        complete: whether the run reached its end.
    """
    found = summaries(run)
    return {
        "command": shlex.join(["fovea", "bench", *map(run.endpoint.without_secrets, arguments)]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": complete,
        "versions": {
            "fovea": __version__,
            "python": platform.python_version(),
            "httpx": httpx.__version__,
            "pillow": importlib.metadata.version("pillow"),
        },
        "client_machine": _machine(),
        "url": run.endpoint.shown_url,
        "models": list(run.models),
        "request": {
            "prompt": run.question.prompt,
            "images_per_request": run.question.images_per_request,
            "images": run.question.images.description,
            "max_tokens": run.question.max_tokens,
            "extra_body": dict(run.question.extra_body),
        },
        "load": asdict(run.load),
        "results": [
            {
                "model": run.models[summary.model],
                "model_index": summary.model,
                "concurrency": summary.concurrency,
                **summary.figures(),
                "rounds": [{"round": part.number, **Summary([part]).figures()} for part in summary.rounds],
            }
            for summary in found
        ],
        "ratios": [
            {
                "model": run.models[summary.model],
                "model_index": summary.model,
                "baseline": run.models[0],
                "concurrency": summary.concurrency,
                **{name: spread and asdict(spread) for name, spread in ratios(summary, baseline).items()},
            }
            for summary, baseline in _pairs(found)
        ],
    }


def _machine() -> dict[str, object]:
    """Machine of the client; the endpoint may be another one."""
    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
    }
