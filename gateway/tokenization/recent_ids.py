"""Token ids of recent questions: many requests ask the same question about different images."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Final

__all__ = ["RecentIds"]

_MAX_TEXTS: Final = 256
_MAX_SIZE: Final = 512
"""Size of the longest text that is kept. Longer ones are histories, which hardly come twice."""


class RecentIds:
    """Token ids of the most recent short texts.

    Each tenant has its own: the time of a request must not tell what another tenant has asked.

    Args:
        tokenize: Function from a text, and all else that its ids depend on, to the ids. Its errors are raised.
    """

    def __init__(self, tokenize: Callable[..., Sequence[int]]) -> None:
        self._tokenize = tokenize
        self._kept = lru_cache(_MAX_TEXTS)(self._ids)

    def get(self, tenant: str, size: int, *text: Hashable) -> tuple[int, ...]:
        """Ids of a text.

        Args:
            tenant: Tenant that asks; empty for none.
            size: Size of the text in characters.
            text: Arguments of `tokenize`.
        """
        return self._kept(tenant, *text) if size <= _MAX_SIZE else tuple(self._tokenize(*text))

    def _ids(self, tenant: str, *text: Hashable) -> tuple[int, ...]:
        return tuple(self._tokenize(*text))
