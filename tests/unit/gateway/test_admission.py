"""Retry times of requests beyond a limit, with a clock that the test moves."""

from __future__ import annotations

import pytest

from fovea.errors import Overloaded
from gateway.http.admission import Admission
from tests.clock import Clock


def refused_for(admission: Admission) -> float:
    with pytest.raises(Overloaded) as caught:
        admission.check("client")
    return caught.value.retry_after_s or 0.0


def test_refused_requests_are_told_when_permits_become_free() -> None:
    clock = Clock()
    admission = Admission(2, "answers in progress", clock)
    for _ in range(4):
        with admission.permit("client"):
            clock.now += 8.0
    with admission.permit("client"), admission.permit("client"):  # a permit becomes free every 4 s
        waits = [refused_for(admission) for _ in range(4)]
    for wait, expected in zip(waits, (4.0, 8.0, 12.0, 16.0), strict=True):
        assert expected <= wait <= 1.1 * expected


def test_without_evidence_the_time_is_a_second() -> None:
    admission = Admission(1, "answers in progress", Clock())
    with admission.permit("client"):
        assert refused_for(admission) == 1.0
