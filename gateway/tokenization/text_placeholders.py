"""Placeholders that stand for a client's texts while a chat template runs."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["PromptSegment", "TextPlaceholders"]

# Private-use characters and digits pass `upper`, `trim` and similar filters unchanged.
_PLACEHOLDER: Final = re.compile("\ue000([0-9]+)-([0-9]+)\ue001")
"""Form of a placeholder: nonce of the prompt, and number of the text. All prompts share the pattern, because compiling
one takes longer than writing a prompt."""


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
        self._nonce = str(secrets.randbits(128))
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
        return {placeholder[2] for placeholder in self._find(text)}

    def restore(self, prompt: str) -> list[PromptSegment]:
        """Segments of a rendered prompt, placeholders replaced by their texts; first and last are the template's."""
        segments, end = [], 0
        for placeholder in self._find(prompt):
            segments.append(PromptSegment(prompt[end : placeholder.start()], False))
            segments.append(PromptSegment(self._texts[int(placeholder[2])], True))
            end = placeholder.end()
        return [*segments, PromptSegment(prompt[end:], False)]

    def _find(self, text: str) -> Iterator[re.Match[str]]:
        """Placeholders of this prompt in `text`."""
        return (found for found in _PLACEHOLDER.finditer(text) if found[1] == self._nonce)
