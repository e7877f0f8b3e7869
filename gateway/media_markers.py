"""`<image>` and `<video>` in a plain question: the places of its images and videos."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from fovea.errors import InvalidRequest
from gateway.question import InterleavedText, Modality, Turn

__all__ = ["MARKERS", "user_turn", "without_markers"]

MARKERS: Final[Mapping[str, Modality]] = {"<image>": Modality.IMAGE, "<video>": Modality.VIDEO}


def without_markers(question: str, places: Collection[Modality]) -> str:
    """The text of a question in which the marks of `places` have a meaning; without any, as it is but for its ends."""
    cut = _cut(question, places)
    return cut[0].strip() if len(cut) == 1 else " ".join(" ".join(cut[::2]).split())


def user_turn(question: str, expected: Mapping[Modality, int]) -> Turn:
    """The user's turn, with places where the marks are, and in front those of which no mark tells.

    Args:
        question: The user's text.
        expected: Number of images and of videos; marks of others are text.

    Raises:
        InvalidRequest: More marks than images or videos, or no text beside them.
    """
    if not without_markers(question, expected):
        raise InvalidRequest("question is empty; a text of at least one character is needed", param="question")
    pieces = [MARKERS[piece] if i % 2 else piece for i, piece in enumerate(_cut(question, expected))]
    for place, count in expected.items():
        _check_count(pieces.count(place), place, count)
    unmarked = [place for place, count in expected.items() for _ in range(count - pieces.count(place))]
    return Turn("user", (*unmarked, InterleavedText(tuple(pieces))))


def _cut(question: str, places: Collection[Modality]) -> list[str]:
    """Texts and marks in turn, beginning and ending with a text."""
    marks = [re.escape(mark) for mark, place in MARKERS.items() if place in places]
    return re.split(f"({'|'.join(marks)})", question)


def _check_count(marks: int, place: Modality, count: int) -> None:
    if marks > count:
        noun = {Modality.IMAGE: "picture", Modality.VIDEO: "video"}[place]
        raise InvalidRequest(
            f"question has {marks} <{place.value}> marks for {count} {noun}{'s' * (count != 1)};"
            f" at most one for each {noun} is accepted",
            param="question",
        )
