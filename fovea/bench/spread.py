"""Spread of repeated measurements."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

__all__ = ["Spread"]


@dataclass(frozen=True)
class Spread:
    """Median of repeated measurements, with the lowest and the highest of them."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 2) -> str:
        """Table cell: "1.52 [1.40, 1.61]"."""
        return f"{self.median:.{digits}f} [{self.lowest:.{digits}f}, {self.highest:.{digits}f}]"

    def summary(self, digits: int = 3) -> dict[str, float]:
        """Spread as a result file holds it."""
        return {name: round(value, digits) for name, value in vars(self).items()}
