"""Budget: the number of visual tokens to keep, of one tower input and over the tiles or frames of one medium."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["allocate_budget", "resolve_budget"]


def resolve_budget(num_tokens: int, *, keep_tokens: int | None = None, keep_ratio: float | None = None) -> int:
    """Number of tokens to keep of N: `keep_tokens`, or max(1, floor(keep_ratio * N + 0.5)); at most N.

    Args:
        num_tokens: visual tokens before pruning, N.
        keep_tokens: number of tokens to keep, at least 1.
        keep_ratio: share of the tokens to keep, in (0, 1].

    Raises:
        ValueError: not exactly one of the two budgets is given, or it is out of range.
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


def allocate_budget(
    sizes: Sequence[int], *, keep_tokens: int | None = None, keep_ratio: float | None = None
) -> tuple[int, ...]:
    """Number of tokens to keep of each tile or frame of one image or video.

    A ratio applies to each tile or frame by itself. A count is allocated in proportion to the sizes. The tokens that
    rounding leaves go to the largest remainders, and of equal ones to the first. A count below the number of tiles or
    frames leaves some of them without tokens.

    Args:
        sizes: visual tokens of each tile or frame before pruning.
        keep_tokens, keep_ratio: budget, see `resolve_budget`.

    Raises:
        ValueError: not exactly one of the two budgets is given, or it is out of range.
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
