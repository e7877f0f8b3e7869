"""Admission control: requests beyond a limit or a client's share of it are refused at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fovea.errors import Overloaded
from gateway.http.fair_shares import FairShares

__all__ = ["Admission"]


class Admission:
    """Limit on the requests in one stage of processing, shared fairly among clients (`FairShares`).

    Args:
        limit: Most requests in the stage.
        stage: Name of the stage in the plural, for the message.
    """

    def __init__(self, limit: int, stage: str) -> None:
        self._limit = limit
        self._stage = stage
        self._shares = FairShares(limit)

    @property
    def num_admitted(self) -> int:
        """Number of requests in the stage."""
        return self._shares.num_held

    def check(self, client_id: str) -> None:
        """Refuses a request that gets no permit, before any work on it.

        Raises:
            Overloaded: The stage is at its limit, or what is left of it is for other clients.
        """
        verdict = self._shares.ask(client_id)
        if verdict == "full":
            raise Overloaded(
                f"the server is at its limit of {self._limit} {self._stage}; try again shortly", retry_after_s=1.0
            )
        if verdict == "above share":
            raise Overloaded(
                f"this client has {self._shares.held_by(client_id)} of the server's {self._limit} {self._stage}, and"
                " what is left is for other clients; try again when one is done",
                retry_after_s=1.0,
            )

    @contextmanager
    def permit(self, client_id: str) -> Iterator[None]:
        """A permit, held while a request is in the stage.

        Raises:
            Overloaded: See `check`.
        """
        self.check(client_id)
        self._shares.take(client_id)
        try:
            yield
        finally:
            self._shares.give_back(client_id)
