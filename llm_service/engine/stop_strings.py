"""Detection of stop strings in streamed text."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopStrings"]


class StopStrings:
    """Cuts a streamed text before its first stop string, independent of how the text is split.

    Text that could be the beginning of a stop string is held back. The first stop string is the one that is complete
    first; of those that are complete at the same character, the longest.

    Attributes:
        found: Flag: a stop string has occurred.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held_back = ""
        self.found = False

    def push(self, text: str) -> str:
        """The part of the text that can be emitted; empty after a stop string was found."""
        if self.found:
            return ""
        text = self._held_back + text
        matches = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if matches:
            self.found, self._held_back = True, ""
            return text[: min(matches)[1]]
        cut = len(text) - self._num_undecided(text)
        self._held_back = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """Text that was held back and is no stop string."""
        text, self._held_back = self._held_back, ""
        return text

    def _num_undecided(self, text: str) -> int:
        """Length of the longest suffix of `text` that is a prefix of a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
