"""Statistics of rounds: rates, percentiles, counts, failures, and ratios of two models."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from fovea.bench.completion import Completion, Failure
from fovea.bench.measurement import Round
from fovea.bench.spread import Spread

__all__ = ["MEASURES", "PERCENTILES", "Summary", "ratios"]

PERCENTILES: Final = (50, 95, 99)


class Summary:
    """Figures of one model at one number of clients.

    Args:
        rounds: rounds of that model at that number, at least one.
    """

    def __init__(self, rounds: Sequence[Round]) -> None:
        self.rounds = rounds
        self.model, self.concurrency = rounds[0].model, rounds[0].concurrency
        self.completions = [completion for part in rounds for completion in part.completions]
        self.failures = [failure for part in rounds for failure in part.failures]
        self._seconds = sum(part.seconds for part in rounds)

    @property
    def requests(self) -> int:
        """Requests that ended."""
        return len(self.completions) + len(self.failures)

    @property
    def without_usage(self) -> int:
        """Answers whose tokens were counted by chunks."""
        return sum(not completion.has_usage for completion in self.completions)

    @property
    def requests_per_s(self) -> float:
        """Answered requests a second."""
        return len(self.completions) / self._seconds if self._seconds else 0.0

    @property
    def output_tokens_per_s(self) -> float:
        """Output tokens a second."""
        return sum(done.output_tokens for done in self.completions) / self._seconds if self._seconds else 0.0

    def percentiles(self, measure: str) -> dict[int, float] | None:
        """Percentiles of a measure of `MEASURES` in seconds; None where no answer has it."""
        values = [value for done in self.completions if (value := MEASURES[measure](done)) is not None]
        return {q: _percentile(values, q) for q in PERCENTILES} if values else None

    def mean(self, name: str) -> float | None:
        """Mean of a count of `Completion`; None where the endpoint does not give it."""
        values = [value for done in self.completions if (value := getattr(done, name)) is not None]
        return statistics.fmean(values) if values else None

    def failures_by_kind(self) -> dict[str, tuple[int, str]]:
        """Number of failures and the message of the first one, by kind, the most frequent first."""
        counts = Counter(failure.kind for failure in self.failures)
        return {kind: (count, _first_message(self.failures, kind)) for kind, count in counts.most_common()}

    def figures(self) -> dict[str, Any]:
        """All figures, for a result file; times in milliseconds."""
        return {
            "requests": self.requests,
            "failed": len(self.failures),
            "seconds": round(self._seconds, 3),
            "requests_per_s": round(self.requests_per_s, 3),
            "output_tokens_per_s": round(self.output_tokens_per_s, 3),
            **{f"{name}_ms": _milliseconds(self.percentiles(name)) for name in MEASURES},
            "mean_prompt_tokens": self.mean("prompt_tokens"),
            "mean_image_tokens": self.mean("image_tokens"),
            "mean_image_tokens_before": self.mean("image_tokens_before"),
            "mean_output_tokens": self.mean("output_tokens"),
            "answers_without_usage": self.without_usage,
            "failures": [
                {"kind": kind, "count": count, "first_message": message}
                for kind, (count, message) in self.failures_by_kind().items()
            ],
        }


MEASURES: Final[dict[str, Callable[[Completion], float | None]]] = {
    "ttft": lambda done: done.ttft_s,
    "tpot": lambda done: done.tpot_s,
    "latency": lambda done: done.latency_s,
}

_RATIOS: Final[dict[str, Callable[[Summary], float | None]]] = {
    "requests_per_s": lambda summary: summary.requests_per_s,
    "output_tokens_per_s": lambda summary: summary.output_tokens_per_s,
    "ttft_p50": lambda summary: _median(summary, "ttft"),
    "tpot_p50": lambda summary: _median(summary, "tpot"),
    "latency_p50": lambda summary: _median(summary, "latency"),
}


def ratios(summary: Summary, baseline: Summary) -> dict[str, Spread | None]:
    """Ratios to another model at the same number of clients, round by round.

    Args:
        summary: model above the line.
        baseline: model below the line.

    Returns:
        Spread of each ratio over the rounds that both models have; None where no round has it.
    """
    others = {part.number: Summary([part]) for part in baseline.rounds}
    pairs = [(Summary([part]), others[part.number]) for part in summary.rounds if part.number in others]
    found: dict[str, Spread | None] = {}
    for name, read in _RATIOS.items():
        values = [(read(above), read(below)) for above, below in pairs]
        numbers = [above / below for above, below in values if above is not None and below]
        found[name] = Spread.of(numbers) if numbers else None
    return found


def _percentile(values: Sequence[float], q: int) -> float:
    """Percentile, interpolated between the two values around it."""
    # `quantiles` takes at least two values, and interpolates between equal ones inexactly.
    return statistics.quantiles(values, n=100, method="inclusive")[q - 1] if min(values) < max(values) else values[0]


def _median(summary: Summary, measure: str) -> float | None:
    percentiles = summary.percentiles(measure)
    return None if percentiles is None else percentiles[50]


def _milliseconds(percentiles: dict[int, float] | None) -> dict[str, float] | None:
    return None if percentiles is None else {f"p{q}": round(1000 * value, 3) for q, value in percentiles.items()}


def _first_message(failures: Sequence[Failure], kind: str) -> str:
    return next(failure.message for failure in failures if failure.kind == kind)
