"""Means with 95 % intervals where questions come in clusters: several about the same picture are not independent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Interval", "clustered_mean"]

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


def clustered_mean(values: Floats, clusters: npt.NDArray[np.int64], *, seed: int = 0) -> Interval:
    """Mean of `values` with a bootstrap interval that resamples whole clusters (Efron & Tibshirani 1993, ch. 8).

    Args:
        values: [Q] one score, or one paired difference, a question.
        clusters: [Q] which picture each belongs to.
        seed: Of the resampling.
    """
    labels, index = np.unique(clusters, return_inverse=True)
    totals = np.bincount(index, weights=values, minlength=len(labels))
    counts = np.bincount(index, minlength=len(labels))
    weights = np.random.default_rng(seed).multinomial(len(labels), np.full(len(labels), 1 / len(labels)), _RESAMPLES)
    means = (weights @ totals) / np.maximum(weights @ counts, 1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))
