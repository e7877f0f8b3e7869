"""Admission control: requests beyond a limit are refused at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fovea.errors import Overloaded

__all__ = ["Admission"]


class Admission:
    """Limit on the requests in one stage of processing.

    Args:
        limit: Most requests in the stage.
        stage: Name of the stage in the plural, for the message.
    """

    def __init__(self, limit: int, stage: str) -> None:
        self._limit = limit
        self._stage = stage
        self._admitted = 0

    @property
    def num_admitted(self) -> int:
        """Number of requests in the stage."""
        return self._admitted

    def check(self) -> None:
        """Refuses a request at the limit, before any work on it.

        Raises:
            Overloaded: The stage is at its limit.
        """
        if self._admitted >= self._limit:
            raise Overloaded(
                f"the server is at its limit of {self._limit} {self._stage}; try again shortly", retry_after_s=1.0
            )

    @contextmanager
    def permit(self) -> Iterator[None]:
        """A permit, held while a request is in the stage.

        Raises:
            Overloaded: The stage is at its limit.
        """
        self.check()
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1
