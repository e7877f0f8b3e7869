"""Media markers: `<image>` and `<video>` in a plain question show where its images and videos stand."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from typing import Final

from fovea.errors import InvalidRequest
from gateway.core.question_text import InterleavedText, Modality, Turn

__all__ = ["MARKERS", "user_turn", "without_markers"]

MARKERS: Final[Mapping[str, Modality]] = {"<image>": Modality.IMAGE, "<video>": Modality.VIDEO}


def without_markers(question: str, modalities: Collection[Modality]) -> str:
    """The text of a question without the markers of `modalities`.

    White space is collapsed if there was a marker, else only stripped from both ends.
    """
    pieces = _split(question, modalities)
    return pieces[0].strip() if len(pieces) == 1 else " ".join(" ".join(pieces[::2]).split())


def user_turn(question: str, expected: Mapping[Modality, int]) -> Turn:
    """The user turn of a plain question. Media without a marker come first.

    Args:
        question: text of the user.
        expected: number of images and of videos; a marker of another modality is plain text.

    Raises:
        InvalidRequest: more markers than images or videos, or no text beside the markers.
    """
    if not without_markers(question, expected):
        raise InvalidRequest("question is empty; a text of at least one character is needed", param="question")
    segments = [MARKERS[piece] if i % 2 else piece for i, piece in enumerate(_split(question, expected))]
    for modality, count in expected.items():
        _check_count(segments.count(modality), modality, count)
    unmarked = [modality for modality, count in expected.items() for _ in range(count - segments.count(modality))]
    return Turn("user", (*unmarked, InterleavedText(tuple(segments))))


def _split(question: str, modalities: Collection[Modality]) -> list[str]:
    """Texts and markers in alternation; the first and the last are texts."""
    return _markers_of(frozenset(modalities)).split(question)


@functools.cache
def _markers_of(modalities: frozenset[Modality]) -> re.Pattern[str]:
    markers = [re.escape(marker) for marker, modality in MARKERS.items() if modality in modalities]
    return re.compile(f"({'|'.join(markers)})")


def _check_count(num_markers: int, modality: Modality, count: int) -> None:
    if num_markers > count:
        noun = modality.value
        raise InvalidRequest(
            f"question has {num_markers} <{noun}> markers for {count} {noun}{'s' * (count != 1)};"
            f" at most one for each {noun} is accepted",
            param="question",
        )
