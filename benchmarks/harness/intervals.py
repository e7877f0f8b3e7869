"""Means with 95 % intervals for clustered questions: several questions about one image are not independent."""

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
        """The mean in percentage points: "93.2 [92.1, 94.0]"."""
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def signed_points(self) -> str:
        """The mean of a difference in percentage points: "-3.1 [-4.0, -2.2]"."""
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"

    def text(self, digits: int = 2) -> str:
        """The mean as a plain number: "1.92 [1.85, 1.99]"."""
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def summary(self) -> dict[str, float]:
        """The interval as a result file holds it."""
        return {name: round(value, 6) for name, value in vars(self).items()}


def clustered_mean(values: Floats, clusters: npt.NDArray[np.int64], *, seed: int = 0) -> Interval:
    """Mean of `values` with a bootstrap interval that resamples whole clusters (Efron & Tibshirani 1993, ch. 8).

    Args:
        values: [Q] score or paired difference of each question.
        clusters: [Q] index of each question's image.
        seed: seed of the resampling.
    """
    index, weights = _resampled(clusters, seed)
    totals = weights @ np.bincount(index, weights=values)
    counts = weights @ np.bincount(index)
    low, high = np.percentile(totals / np.maximum(counts, 1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def clustered_ratio(values: Floats, base: Floats, clusters: npt.NDArray[np.int64], *, seed: int = 0) -> Interval:
    """Ratio of the means of `values` and `base`, both resampled together; see `clustered_mean`.

    Args:
        values: [Q] numerator of each question.
        base: [Q] denominator of each question; its mean is above 0 in every resample.
        clusters: [Q] index of each question's image.
        seed: seed of the resampling.
    """
    index, weights = _resampled(clusters, seed)
    totals, bases = (weights @ np.bincount(index, weights=terms) for terms in (values, base))
    low, high = np.percentile(totals / bases, [2.5, 97.5])
    return Interval(float(values.mean() / base.mean()), float(low), float(high))


def _resampled(clusters: npt.NDArray[np.int64], seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Index of each value's cluster, [Q] in 0..L-1, and number of draws of each cluster in each resample, [R, L]."""
    labels, index = np.unique(clusters, return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(labels), np.full(len(labels), 1 / len(labels)), _RESAMPLES)
    return index, drawn
