"""Admission control: requests beyond a limit or a client's share of it are refused at once, with a time to retry."""

from __future__ import annotations

import time
from collections.abc import Callable

from fovea.errors import Overloaded
from fovea.service_rate import RecentMean, RetryTimes
from fovea.telemetry import Refusal, count_refusal
from gateway.access.fair_shares import FairShares

__all__ = ["Admission"]


class Admission:
    """Limit on the requests in one stage of processing, shared fairly among clients (`FairShares`).

    Args:
        limit: Most requests in the stage.
        stage: Name of the stage in the plural, for the message.
        clock: Monotonic clock in seconds.
    """

    def __init__(self, limit: int, stage: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._stage = stage
        self._shares = FairShares(limit)
        self._clock = clock
        self._held_s = RecentMean()  # per permit
        self._retry = RetryTimes(clock)

    @property
    def num_admitted(self) -> int:
        """Number of requests in the stage."""
        return self._shares.num_held

    def check(self, client_id: str) -> None:
        """Refuses a request that gets no permit, before any work on it.

        Raises:
            Overloaded: The stage is at its limit, or what is left of it is for other clients. The error has the time
                after which a permit becomes free.
        """
        verdict = self._shares.ask(client_id)
        if verdict == "full":
            count_refusal(Refusal.ANSWERS_RUNNING)
            raise Overloaded(
                f"the server is at its limit of {self._limit} {self._stage}; try again shortly",
                retry_after_s=self._retry_after_s(self._limit),
            )
        if verdict == "above share":
            count_refusal(Refusal.CLIENT_SHARE)
            held = self._shares.held_by(client_id)
            raise Overloaded(
                f"this client has {held} of the server's {self._limit} {self._stage}, and what is left is for other"
                " clients; try again when one is done",
                retry_after_s=self._retry_after_s(held),
            )

    def _retry_after_s(self, permits: int) -> float:
        """Seconds until one of `permits` is free, from how long they were held."""
        held_s = self._held_s.mean(self._clock())
        interval_s = None if held_s is None else held_s / max(permits, 1)
        return self._retry.next_s(interval_s or 0.0, interval_s)

    def permit(self, client_id: str) -> _Permit:
        """Context of a permit, held while a request is in the stage.

        Raises:
            Overloaded: See `check`. Raised as the context is entered.
        """
        return _Permit(self, client_id)

    def admit(self, client_id: str) -> float:
        """Gives a permit. Returns the time, for `leave`.

        Raises:
            Overloaded: See `check`.
        """
        self.check(client_id)
        self._shares.take(client_id)
        return self._clock()

    def leave(self, client_id: str, admitted_at: float) -> None:
        """Takes a permit back."""
        self._shares.give_back(client_id)
        now = self._clock()
        self._held_s.add(now - admitted_at, 1, now)


class _Permit:
    """A permit of a request.

    Args:
        admission: Limit on the requests.
        client_id: Id of the client.
    """

    def __init__(self, admission: Admission, client_id: str) -> None:
        self._admission = admission
        self._client_id = client_id

    def __enter__(self) -> None:
        self._admitted_at = self._admission.admit(self._client_id)

    def __exit__(self, *_: object) -> None:
        self._admission.leave(self._client_id, self._admitted_at)
