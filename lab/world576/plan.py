"""The minutes of one call: how they are planned, and when a stage has to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

STAGE_MINUTES: Final = {"data": 1.0, "clip": 3.4, "llava": 3.2, "evaluate": 1.0}
CALL_MINUTES: Final = 9.0
"""Minutes of a call; the difference to the sum of the stages is for imports and for writing."""


@dataclass(frozen=True)
class Clock:
    """Time of a call, in seconds since it began.

    Attributes:
        began: time of the start.
        limit: seconds after which no further step begins.
        now: source of time.
    """

    began: float
    limit: float
    now: Callable[[], float] = time.monotonic

    @classmethod
    def start(cls, minutes: float) -> Clock:
        """A clock that starts now; half a minute of the call is kept for writing."""
        return cls(time.monotonic(), minutes * 60 - 30)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self.now() - self.began

    @property
    def over(self) -> bool:
        """Whether the call has to end."""
        return self.seconds >= self.limit


def stage_minutes(stage: str, clock: Clock, minutes: float) -> float:
    """Minutes for a stage that begins now: what the later stages leave of the call, and at least what is planned.

    Args:
        stage: name of the stage.
        clock: time of the call.
        minutes: minutes of the call.
    """
    share = minutes / CALL_MINUTES
    names = list(STAGE_MINUTES)
    later = sum(STAGE_MINUTES[name] for name in names[names.index(stage) + 1 :])
    left = (clock.limit - clock.seconds) / 60 - later * share
    return max(left, STAGE_MINUTES[stage] * share)


def allowed_steps(minutes: float, seconds_per_step: float, most: int) -> int:
    """Number of steps that fit into some minutes, from 1 to `most`; a tenth of the time is for saving and reports."""
    return max(1, min(most, int(0.9 * minutes * 60 / seconds_per_step)))


def plan_text(minutes: float, scenes: int, device: str) -> str:
    """Lines that say what a call does and how long each stage may take."""
    share = minutes / CALL_MINUTES
    what = {
        "data": f"{scenes} scenes with their questions, tokenizers",
        "clip": "CLIP; as many steps as the measured pace allows",
        "llava": "LLaVA on the frozen tower; likewise",
        "evaluate": "greedy answers in plain transformers, model card",
    }
    lines = [f"plan of {minutes:g} minutes on {device}:"]
    lines += [f"  {name:9} {STAGE_MINUTES[name] * share:4.1f} min  {text}" for name, text in what.items()]
    return "\n".join(
        [*lines, "a stage that is done is not done again; a call that runs out of time is resumed by the next"]
    )
