"""Means with 95 % intervals where questions come in clusters: several about the same picture are not independent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Interval", "clustered_mean", "clustered_ratio"]

_RESAMPLES = 2000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and the 2.5 and 97.5 percentiles of its bootstrap distribution."""

    mean: float
    low: float
    high: float

    def points(self) -> str:
        """In percentage points: "93.2 [92.1, 94.0]"."""
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def signed_points(self) -> str:
        """A difference in percentage points: "-3.1 [-4.0, -2.2]"."""
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"

    def summary(self) -> dict[str, float]:
        """For a results file."""
        return {name: round(value, 6) for name, value in vars(self).items()}


def clustered_mean(values: Floats, clusters: npt.NDArray[np.int64], *, seed: int = 0) -> Interval:
    """Mean of `values` with a bootstrap interval that resamples whole clusters (Efron & Tibshirani 1993, ch. 8).

    Args:
        values: [Q] one score, or one paired difference, a question.
        clusters: [Q] which picture each belongs to.
        seed: Of the resampling.
    """
    index, weights = _resampled(clusters, seed)
    totals = weights @ np.bincount(index, weights=values)
    counts = weights @ np.bincount(index)
    low, high = np.percentile(totals / np.maximum(counts, 1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def clustered_ratio(values: Floats, base: Floats, clusters: npt.NDArray[np.int64], *, seed: int = 0) -> Interval:
    """Ratio of the means of `values` and `base`, both resampled together; see `clustered_mean`.

    Args:
        values: [Q].
        base: [Q], whose mean is above 0 in every resample.
        clusters: [Q].
        seed: Of the resampling.
    """
    index, weights = _resampled(clusters, seed)
    totals, bases = (weights @ np.bincount(index, weights=one) for one in (values, base))
    low, high = np.percentile(totals / bases, [2.5, 97.5])
    return Interval(float(values.mean() / base.mean()), float(low), float(high))


def _resampled(clusters: npt.NDArray[np.int64], seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Each value's cluster as 0..L-1, and how often each of L clusters is drawn in each resample: [Q], [R, L]."""
    labels, index = np.unique(clusters, return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(labels), np.full(len(labels), 1 / len(labels)), _RESAMPLES)
    return index, drawn
