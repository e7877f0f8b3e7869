"""Report of `benchmarks.speed.gateway`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from benchmarks.harness.provenance import origin
from benchmarks.harness.tables import Spread, table
from benchmarks.speed.gateway_servers import ECHO, LEAST

__all__ = ["markdown"]

_GOAL_MS: Final = 2.0
_GOAL_RATIO: Final = 0.7


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    sides = [name for name in result["new"][0] if name not in ("round", ECHO)]
    load = " to ".join(f"{value:.1f}" for value in result["load_average"])
    return (
        f"# The gateway beside an echo\n\n{origin(result, packages=['fastapi', 'uvicorn'])} Medians of"
        f" {result['rounds']} rounds, with the lowest and the highest; ratios and differences are taken\nwithin a"
        f" round. Load average of the machine: {load}.\n\n## Answers about new images\n\n"
        + _new_answers(result, sides)
        + "\n## Cached answers\n\n"
        + _cached_answers(result, [*sides, LEAST])
        + "\n## Function calls of the event loop for one request\n\n"
        + _calls(result, [*sides, LEAST])
    )


def _new_answers(result: dict[str, Any], sides: Sequence[str]) -> str:
    rounds = result["new"]
    rows = []
    for side in (*sides, ECHO):
        p50_ms, cpu_ms = (Spread.of([one[side][key] for one in rounds]).text() for key in ("p50_ms", "cpu_ms"))
        more, goal = "", ""
        if side != ECHO:
            added = Spread.of([one[side]["p50_ms"] - one[ECHO]["p50_ms"] for one in rounds])
            more, goal = added.text(), f"<= {_GOAL_MS:g} ms, {'met' if added.median <= _GOAL_MS else 'missed'}"
        rows.append([side, p50_ms, more, goal, cpu_ms])
    header = ["server", "p50 less encode and generate, ms", "less the echo, ms", "goal", "CPU time of the server, ms"]
    return table(header, rows, num_labels=1)


def _cached_answers(result: dict[str, Any], sides: Sequence[str]) -> str:
    rows = []
    for in_flight in dict.fromkeys(window["in_flight"] for window in result["cached"]):

        def values(side: str, key: str, in_flight: int = in_flight) -> list[float]:
            windows = [w for w in result["cached"] if (w["server"], w["in_flight"]) == (side, in_flight)]
            return [window[key] for window in sorted(windows, key=lambda window: window["round"])]

        for side in (*sides, ECHO):
            texts = [Spread.of(values(side, key)).text(digits) for key, digits in (("per_second", 0), ("cpu_ms", 2))]
            rows.append([str(in_flight), side, texts[0], *_ratios(values, side), texts[1]])
    header = ["in flight", "server", "requests/s", "over the echo", "goal", "CPU time of the server, ms"]
    return table(header, rows, num_labels=2)


def _ratios(values: Callable[[str, str], list[float]], side: str) -> tuple[str, str]:
    """Rate over that of the echo, empty for the echo itself, and the goal of a gateway."""
    if side == ECHO:
        return "", ""
    pairs = zip(values(side, "per_second"), values(ECHO, "per_second"), strict=True)
    ratio = Spread.of([one / echo for one, echo in pairs])
    if side == LEAST:
        return ratio.text(), ""
    return ratio.text(), f">= {_GOAL_RATIO:g}, {'met' if ratio.median >= _GOAL_RATIO else 'missed'}"


def _calls(result: dict[str, Any], sides: Sequence[str]) -> str:
    calls = result["calls"]
    rows = [
        [side, *(f"{calls[side][kind]:,.0f}" if kind in calls[side] else "" for kind in ("new", "cached"))]
        for side in (*sides, ECHO)
    ]
    return table(["server", "new image", "cached answer"], rows, num_labels=1)
