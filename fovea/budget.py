"""How many tokens to keep."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["resolve_budget", "share_budget"]


def resolve_budget(num_tokens: int, *, keep_tokens: int | None = None, keep_ratio: float | None = None) -> int:
    """K of `num_tokens` visual tokens: a count as it is, a ratio r as max(1, floor(r N + 0.5)); at most N.

    Raises:
        ValueError: Not exactly one of the two is given, a count below 1 or a ratio outside (0, 1].
    """
    if (keep_tokens is None) == (keep_ratio is None):
        raise ValueError("exactly one of keep_tokens and keep_ratio is needed")
    if keep_tokens is not None:
        if keep_tokens < 1:
            raise ValueError(f"keep_tokens {keep_tokens} is not a count of at least 1")
        return min(keep_tokens, num_tokens)
    assert keep_ratio is not None
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio {keep_ratio:g} is not in (0, 1]")
    return max(1, math.floor(keep_ratio * num_tokens + 0.5))


def share_budget(
    sizes: Sequence[int], *, keep_tokens: int | None = None, keep_ratio: float | None = None
) -> tuple[int, ...]:
    """K of each part (tile, frame) of one picture or video.

    A ratio holds for each part by itself. A count is shared in proportion to the parts' sizes, and what rounding leaves
    goes to the largest remainders, of equal ones to the first. A count below the number of parts leaves some with 0.

    Raises:
        ValueError: See `resolve_budget`.
    """
    total = sum(sizes)
    if keep_tokens is None:
        return tuple(resolve_budget(size, keep_ratio=keep_ratio) for size in sizes)
    keep = resolve_budget(total, keep_tokens=keep_tokens, keep_ratio=keep_ratio)
    shares = [keep * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(keep * sizes[i] % total), i))
    for i in by_remainder[: keep - sum(shares)]:
        shares[i] += 1
    return tuple(shares)
