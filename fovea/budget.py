"""Budget of an image or video: how many visual tokens to keep, and how many of them in each tile or frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Budget", "allocate_budget"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Visual tokens to keep: a count, a ratio, or neither (auto: the pruner decides).

    Attributes:
        keep_tokens: Count of at least 1; all N tokens are kept where it is N or more.
        keep_ratio: Ratio r in (0, 1], that is max(1, floor(r N + 0.5)) of N tokens.
        max_tokens: Upper bound, of whatever the count, the ratio or the pruner yields; None for no bound.

    Raises:
        ValueError: Both a count and a ratio are given, or one of them is out of its range.
    """

    keep_tokens: int | None = None
    keep_ratio: float | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.keep_tokens is not None and self.keep_ratio is not None:
            raise ValueError("keep_tokens and keep_ratio are both given; one of them is accepted")
        if self.keep_tokens is not None and self.keep_tokens < 1:
            raise ValueError(f"keep_tokens {self.keep_tokens} is not a count of at least 1")
        if self.keep_ratio is not None and not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio {self.keep_ratio:g} is not in (0, 1]")

    @property
    def is_auto(self) -> bool:
        """Whether the pruner decides."""
        return self.keep_tokens is None and self.keep_ratio is None

    def resolve(self, num_tokens: int) -> int:
        """Number of visual tokens to keep of `num_tokens`, before `max_tokens` is applied.

        Raises:
            ValueError: The budget is auto.
        """
        if self.keep_tokens is not None:
            return min(self.keep_tokens, num_tokens)
        if self.keep_ratio is not None:
            return min(max(1, math.floor(self.keep_ratio * num_tokens + 0.5)), num_tokens)
        raise ValueError("keep_tokens or keep_ratio is needed; the budget has neither")


def allocate_budget(sizes: Sequence[int], budget: Budget) -> tuple[int, ...]:
    """Number of visual tokens to keep of each tile or frame of one image or video, before `max_tokens` is applied.

    A ratio applies to each tile or frame by itself. A count is allocated in proportion to the sizes; what rounding
    leaves goes to the largest remainders, of equal ones to the first. A count below the number of tiles or frames
    leaves some with 0.

    Args:
        sizes: Number of visual tokens of each tile or frame.
        budget: A count or a ratio.

    Raises:
        ValueError: The budget is auto.
    """
    if budget.keep_tokens is None:
        return tuple(budget.resolve(size) for size in sizes)
    total = sum(sizes)
    keep = budget.resolve(total)
    allocated = [keep * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(keep * sizes[i] % total), i))
    for i in by_remainder[: keep - sum(allocated)]:
        allocated[i] += 1
    return tuple(allocated)
