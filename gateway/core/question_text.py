"""Text of a question: a plain text with markers, or a chat history."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["InterleavedText", "Modality", "QuestionText", "Turn"]


class Modality(Enum):
    """Image or video; the values are the content types of chat templates."""

    IMAGE = "image"
    VIDEO = "video"


@dataclass(frozen=True)
class InterleavedText:
    """Text of a question with markers such as `<image>`, split at the markers.

    Attributes:
        segments: Texts and media in order.
    """

    segments: tuple[str | Modality, ...]


@dataclass(frozen=True)
class Turn:
    """One message of a chat.

    Attributes:
        role: `system`, `user` or `assistant`.
        parts: Texts and media in order.
    """

    role: str
    parts: tuple[str | InterleavedText | Modality, ...]


@dataclass(frozen=True)
class QuestionText:
    """Text of a question, or a chat history that ends with it.

    Attributes:
        text: Text that text-aware pruners read: the question, or the texts of the last user turn.
        turns: Chat history; None for a question without history. The `text` of such a question may hold markers.
    """

    text: str
    turns: tuple[Turn, ...] | None = None

    @property
    def size(self) -> int:
        """Characters of the question, or characters and parts of all turns."""
        if self.turns is None:
            return len(self.text)
        return sum(1 + (len(part) if isinstance(part, str) else 0) for turn in self.turns for part in turn.parts)
