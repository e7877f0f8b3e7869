"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Level"]


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """Works, but is slower or less than it could be; or could not be checked."""
    PROBLEM = "problem"
    """Keeps `fovea up` from starting, or a gateway from answering."""


@dataclass(frozen=True)
class Finding:
    """Finding of one check.

    Attributes:
        subject: what was checked, in a word.
        level: how bad it is.
        text: what was found.
        advice: what to do; empty for nothing.
    """

    subject: str
    level: Level
    text: str
    advice: str = ""

    def as_json(self) -> dict[str, str]:
        """The finding as a JSON object."""
        return {"subject": self.subject, "level": self.level.value, "text": self.text, "advice": self.advice}
