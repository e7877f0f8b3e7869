"""Names that stand for a client's texts while a chat template runs."""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

__all__ = ["PromptSegment", "TextPlaceholders"]


class PromptSegment(NamedTuple):
    """A stretch of a prompt with one author.

    Attributes:
        text: characters of the stretch.
        from_client: Whether the client wrote it; else the template did.
    """

    text: str
    from_client: bool


class TextPlaceholders:
    """Names for the texts of one prompt, which nobody can guess.

    A template sees names alone, so where a name comes out, the client's text stands, and nowhere else. White space at
    the ends of a text stays beside its name: a template that trims finds it, and one that asks whether a text is empty
    gets the same answer.
    """

    def __init__(self) -> None:
        # Private-use characters and digits pass `upper`, `trim` and the like unchanged.
        self._nonce = secrets.randbits(128)
        self._pattern = re.compile(f"\ue000{self._nonce}-([0-9]+)\ue001")
        self._texts: list[str] = []

    def hide(self, text: str) -> str:
        """`text` with a name in the place of all but the white space at its ends."""
        inner = text.strip()
        if not inner:
            return text
        before, _, after = text.partition(inner)
        name = f"\ue000{self._nonce}-{len(self._texts)}\ue001"
        self._texts.append(inner)
        return f"{before}{name}{after}"

    def names(self, text: str) -> set[str]:
        """Which names stand in `text`."""
        return set(self._pattern.findall(text))

    def pieces(self, prompt: str) -> list[PromptSegment]:
        """What a template wrote, the texts back in the place of their names; it begins and ends with the template's."""
        parts = self._pattern.split(prompt)
        return [
            PromptSegment(self._texts[int(part)], True) if i % 2 else PromptSegment(part, False)
            for i, part in enumerate(parts)
        ]
