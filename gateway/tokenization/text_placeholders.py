"""Placeholders that stand for a client's texts while a chat template runs."""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

__all__ = ["PromptSegment", "TextPlaceholders"]


class PromptSegment(NamedTuple):
    """A stretch of a prompt with one author.

    Attributes:
        text: characters of the segment.
        from_client: whether the client wrote it; otherwise the chat template did.
    """

    text: str
    from_client: bool


class TextPlaceholders:
    """Unguessable placeholders for the texts of one prompt.

    A chat template sees only placeholders. The client's text is put back where its placeholder comes out, and nowhere
    else. White space at both ends of a text stays outside its placeholder, so that a template that trims text, or tests
    whether it is empty, behaves as with the text itself.
    """

    def __init__(self) -> None:
        # Private-use characters and digits pass `upper`, `trim` and similar filters unchanged.
        self._nonce = secrets.randbits(128)
        self._pattern = re.compile(f"\ue000{self._nonce}-([0-9]+)\ue001")
        self._texts: list[str] = []

    def substitute(self, text: str) -> str:
        """`text` with a placeholder for everything but the white space at both ends."""
        inner = text.strip()
        if not inner:
            return text
        before, _, after = text.partition(inner)
        placeholder = f"\ue000{self._nonce}-{len(self._texts)}\ue001"
        self._texts.append(inner)
        return f"{before}{placeholder}{after}"

    def numbers_in(self, text: str) -> set[str]:
        """Numbers of the placeholders in `text`."""
        return set(self._pattern.findall(text))

    def restore(self, prompt: str) -> list[PromptSegment]:
        """Segments of a rendered prompt, placeholders replaced by their texts; first and last are the template's."""
        parts = self._pattern.split(prompt)
        return [
            PromptSegment(self._texts[int(part)], True) if i % 2 else PromptSegment(part, False)
            for i, part in enumerate(parts)
        ]
