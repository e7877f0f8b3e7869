"""`<image>` and `<video>` in a plain question: the places of its images and videos."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from fovea.errors import InvalidRequest
from gateway.question import MarkedText, Place, Turn

__all__ = ["MARKS", "marked_turn", "without_marks"]

MARKS: Final[Mapping[str, Place]] = {"<image>": Place.IMAGE, "<video>": Place.VIDEO}


def without_marks(question: str, places: Collection[Place]) -> str:
    """The text of a question in which the marks of `places` have a meaning; without any, as it is but for its ends."""
    cut = _cut(question, places)
    return cut[0].strip() if len(cut) == 1 else " ".join(" ".join(cut[::2]).split())


def marked_turn(question: str, expected: Mapping[Place, int]) -> Turn:
    """The user's turn, with places where the marks are, and in front those of which no mark tells.

    Args:
        question: The user's text.
        expected: Number of images and of videos; marks of others are text.

    Raises:
        InvalidRequest: More marks than images or videos, or no text beside them.
    """
    if not without_marks(question, expected):
        raise InvalidRequest("question is empty; a text of at least one character is needed", param="question")
    pieces = [MARKS[piece] if i % 2 else piece for i, piece in enumerate(_cut(question, expected))]
    for place, count in expected.items():
        _check_count(pieces.count(place), place, count)
    unmarked = [place for place, count in expected.items() for _ in range(count - pieces.count(place))]
    return Turn("user", (*unmarked, MarkedText(tuple(pieces))))


def _cut(question: str, places: Collection[Place]) -> list[str]:
    """Texts and marks in turn, beginning and ending with a text."""
    marks = [re.escape(mark) for mark, place in MARKS.items() if place in places]
    return re.split(f"({'|'.join(marks)})", question)


def _check_count(marks: int, place: Place, count: int) -> None:
    if marks > count:
        noun = {Place.IMAGE: "picture", Place.VIDEO: "video"}[place]
        raise InvalidRequest(
            f"question has {marks} <{place.value}> marks for {count} {noun}{'s' * (count != 1)};"
            f" at most one for each {noun} is accepted",
            param="question",
        )
