"""Schedules for budgets and depths that no paper publishes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

__all__ = ["Knots", "interpolate", "scaled_layers"]

# Depth for which the methods are published (LLaMA-7B).
_PUBLISHED_LAYERS: Final = 32

Knots = Sequence[tuple[float, Sequence[float]]]


def scaled_layers(layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Layer indices for a model of `num_layers`: k of 32 becomes max(1, round(k L / 32)), strictly increasing."""
    scaled: list[int] = []
    for layer in layers:
        nearest = max(1, round(layer * num_layers / _PUBLISHED_LAYERS))
        scaled.append(max(nearest, scaled[-1] + 1) if scaled else nearest)
    return tuple(scaled)


def interpolate(share: float, knots: Knots) -> tuple[float, ...]:
    """Settings at `share`: linear between the published ones, and equal to them at their shares.

    Args:
        share: Budget over the number of visual tokens, 0 to 1.
        knots: Pairs (share, settings) in ascending order of share, the first at 0, the last at 1.
    """
    for (low, at_low), (high, at_high) in itertools.pairwise(knots):
        if share < high:
            weight = (share - low) / (high - low)
            return tuple(a + (b - a) * weight for a, b in zip(at_low, at_high, strict=True))
    return tuple(knots[-1][1])
