"""Shedding before work: what cannot be served soon is refused at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fovea.errors import Overloaded

__all__ = ["Admission"]


class Admission:
    """At most `limit` requests in one stage of their way.

    Args:
        limit: Beyond it requests are refused.
        stage: What they do there, for the message.
    """

    def __init__(self, limit: int, stage: str) -> None:
        self._limit = limit
        self._stage = stage
        self._admitted = 0

    @property
    def num_admitted(self) -> int:
        """Requests in the stage now."""
        return self._admitted

    def check(self) -> None:
        """Refuses a request that could not be admitted now, before anything is spent on it.

        Raises:
            Overloaded: All permits are taken.
        """
        if self._admitted >= self._limit:
            raise Overloaded(
                f"the server is at its limit of {self._limit} {self._stage}; try again shortly", retry_after_s=1.0
            )

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Held while a request is in the stage.

        Raises:
            Overloaded: All permits are taken.
        """
        self.check()
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1
