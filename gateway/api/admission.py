"""Shedding before work: what cannot be served soon is refused at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fovea.errors import Overloaded

__all__ = ["Admission"]


class Admission:
    """At most `limit` answers in progress.

    Args:
        limit: Beyond it requests are refused.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._admitted = 0

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Held while an answer is in progress.

        Raises:
            Overloaded: All permits are taken.
        """
        if self._admitted >= self._limit:
            raise Overloaded(
                f"the server is at its limit of {self._limit} answers in progress; try again shortly",
                retry_after_s=1.0,
            )
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1
