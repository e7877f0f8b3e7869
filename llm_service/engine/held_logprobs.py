"""Log-probabilities of tokens whose text is held back."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from llm_service.engine.base import TokenLogprob

__all__ = ["HeldLogprobs"]


@dataclass(frozen=True)
class _Held:
    """Log-probability of a token, the offset of its text in that of the answer, and whether it has any."""

    logprob: TokenLogprob
    start: int
    has_text: bool


class HeldLogprobs:
    """Log-probabilities of tokens, released with the first character of each, in order.

    Text is held back while it may become a stop string, or a character. A stop string that is found is cut from the
    text with everything behind it, and so are the tokens that begin there.
    """

    def __init__(self) -> None:
        self._held: deque[_Held] = deque()
        self._length = 0
        self._num_emitted = 0

    def push(self, logprob: TokenLogprob, num_characters: int, *, is_incomplete: bool) -> None:
        """Adds the next token.

        Args:
            logprob: Its log-probability.
            num_characters: Number of characters that the token has completed, emitted or held back.
            is_incomplete: Whether bytes of the token wait for the rest of a character.
        """
        self._held.append(_Held(logprob, self._length, num_characters > 0 or is_incomplete))
        self._length += num_characters

    def release(self, num_characters: int) -> tuple[TokenLogprob, ...]:
        """Log-probabilities of the tokens that begin in the emitted text, and of those without text up to its end.

        Args:
            num_characters: Number of characters that are emitted now.
        """
        self._num_emitted += num_characters
        released: list[TokenLogprob] = []
        while self._held and self._held[0].start + self._held[0].has_text <= self._num_emitted:
            released.append(self._held.popleft().logprob)
        return tuple(released)

    def release_all(self) -> tuple[TokenLogprob, ...]:
        """Log-probabilities of all tokens, at the end of an answer that no stop string has cut."""
        released = tuple(held.logprob for held in self._held)
        self._held.clear()
        return released
