"""Stop strings in a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopStrings"]


class StopStrings:
    """Cuts a text before the first stop string that appears in it, however its pieces fall.

    What could still become a stop string is held back, so nothing is emitted that would have to be taken back. If
    several strings appear, the one that is complete first counts; of those complete at the same place, the longest.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The part of the text that can be emitted now. After a stop string was `found`, always empty."""
        if self.found:
            return ""
        text = self._held + text
        hits = [(start + len(s), start) for s in self._stop if (start := text.find(s)) >= 0]
        if hits:
            self.found, self._held = True, ""
            return text[: min(hits)[1]]
        cut = len(text) - self._num_undecided(text)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """What was held back and did not become a stop string."""
        text, self._held = self._held, ""
        return text

    def _num_undecided(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        longest = max(map(len, self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(s.startswith(text[-length:]) for s in self._stop):
                return length
        return 0
