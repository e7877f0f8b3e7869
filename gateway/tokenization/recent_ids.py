"""Token ids of recent questions: many requests ask the same question about different images."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Final

from cachetools import LRUCache

__all__ = ["RecentIds"]

_MAX_TEXTS: Final = 256
_MAX_SIZE: Final = 512
"""Size of the longest text that is kept. Longer ones are histories, which hardly come twice."""


class RecentIds:
    """Token ids of the most recent short texts.

    Each tenant has its own: the time of a request must not tell what another tenant has asked.
    """

    def __init__(self) -> None:
        self._ids: LRUCache[Hashable, tuple[int, ...]] = LRUCache(_MAX_TEXTS)

    def get(self, tenant: str, text: Hashable, size: int, tokenize: Callable[[], Sequence[int]]) -> tuple[int, ...]:
        """Ids of a text.

        Args:
            tenant: Tenant that asks; empty for none.
            text: The text, and all else that its ids depend on.
            size: Its size in characters.
            tokenize: Function that returns the ids of a text that is not kept. Its errors are raised.
        """
        if size > _MAX_SIZE:
            return tuple(tokenize())
        ids = self._ids.get((tenant, text))
        if ids is None:
            ids = self._ids[tenant, text] = tuple(tokenize())
        return ids
