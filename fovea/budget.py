"""Budget of an image or video: how many visual tokens to keep, and how many of them in each tile or frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

__all__ = ["Budget", "InvalidBudget", "allocate_budget"]

_MAX_COUNT: Final = 2**32 - 1  # uint32 on the wire


class InvalidBudget(ValueError):
    """A count or a ratio that is not accepted. The message is meant for the client.

    Attributes:
        field: Field of the client's request that is wrong: `keep_tokens` or `keep_ratio`.
    """

    def __init__(self, message: str, field: Literal["keep_tokens", "keep_ratio"]) -> None:
        super().__init__(message)
        self.field: Final = field


@dataclass(frozen=True, slots=True)
class _Count:
    """A number of visual tokens; all N tokens are kept where it is N or more."""

    tokens: int

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= _MAX_COUNT:
            limit = "at least 1" if self.tokens < 1 else f"at most {_MAX_COUNT}"
            raise InvalidBudget(f"keep_tokens {self.tokens} is not accepted; {limit}", "keep_tokens")


@dataclass(frozen=True, slots=True)
class _Ratio:
    """A share r of the visual tokens, that is max(1, floor(r N + 0.5)) of N tokens."""

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:  # NaN is refused too
            raise InvalidBudget(f"keep_ratio {self.share} is not in (0, 1]", "keep_ratio")


@dataclass(frozen=True, slots=True)
class _Auto:
    """The number that the pruner chooses for each image and question."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Visual tokens to keep: a count, a ratio, or auto (the pruner decides). Made by `count`, `ratio`, `auto` and `of`.

    Attributes:
        max_tokens: Upper bound, of whatever the count, the ratio or the pruner yields; None for no bound.
    """

    _amount: _Count | _Ratio | _Auto
    max_tokens: int | None = None

    @classmethod
    def count(cls, keep_tokens: int) -> Budget:
        """Budget of `keep_tokens` visual tokens; all N tokens are kept where it is N or more.

        Raises:
            InvalidBudget: The count is below 1 or above 2^32 - 1.
        """
        return cls(_Count(keep_tokens))

    @classmethod
    def ratio(cls, keep_ratio: float) -> Budget:
        """Budget of a share of the visual tokens: max(1, floor(keep_ratio N + 0.5)) of N tokens.

        Raises:
            InvalidBudget: The ratio is not in (0, 1].
        """
        return cls(_Ratio(float(keep_ratio)))

    @classmethod
    def auto(cls) -> Budget:
        """Budget that the pruner chooses for each image and question."""
        return cls(_Auto())

    @classmethod
    def of(cls, keep_tokens: int | Literal["auto"] | None, keep_ratio: float | None) -> Budget | None:
        """Budget of a client's two fields; None if neither is given.

        Args:
            keep_tokens: Number of visual tokens, or `auto`; None if not given.
            keep_ratio: Share of the visual tokens; None if not given.

        Raises:
            InvalidBudget: Both are given, or one is out of its range.
        """
        if keep_tokens is not None and keep_ratio is not None:
            raise InvalidBudget("at most one of keep_tokens and keep_ratio may be given", "keep_ratio")
        if keep_ratio is not None:
            return cls.ratio(keep_ratio)
        if keep_tokens is None:
            return None
        return cls.auto() if keep_tokens == "auto" else cls.count(keep_tokens)

    def capped(self, max_tokens: int | None) -> Budget:
        """This budget with the upper bound `max_tokens` instead of its own; None for no bound."""
        return replace(self, max_tokens=max_tokens)

    @property
    def is_auto(self) -> bool:
        """Whether the pruner decides."""
        return isinstance(self._amount, _Auto)

    @property
    def keep_tokens(self) -> int | None:
        """The count; None for a ratio and for auto."""
        return self._amount.tokens if isinstance(self._amount, _Count) else None

    @property
    def keep_ratio(self) -> float | None:
        """The ratio; None for a count and for auto."""
        return self._amount.share if isinstance(self._amount, _Ratio) else None

    def resolve(self, num_tokens: int) -> int:
        """Number of visual tokens to keep of `num_tokens`, before `max_tokens` is applied.

        Raises:
            ValueError: The budget is auto.
        """
        match self._amount:
            case _Count(tokens):
                return min(tokens, num_tokens)
            case _Ratio(share):
                return min(max(1, math.floor(share * num_tokens + 0.5)), num_tokens)
            case _Auto():
                raise ValueError("keep_tokens or keep_ratio is needed; the budget is auto")


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
