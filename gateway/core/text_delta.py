"""Text as it is generated, with the log-probabilities of its tokens if they were requested."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GeneratedText", "TextDelta", "TokenLogprob", "TopLogprob"]


@dataclass(frozen=True)
class TopLogprob:
    """A token and its log-probability in the model's own distribution, before temperature, filters and penalties.

    Attributes:
        token_id: Id in the language model's vocabulary.
        token: Bytes of the token. Those of all tokens of an answer, one after the other, are its text in UTF-8, but for
            the names of special tokens and white space that is left out before the first word. The last token may go
            on into a stop string.
        logprob: Natural logarithm of the probability.
    """

    token_id: int
    token: bytes
    logprob: float


@dataclass(frozen=True)
class TokenLogprob(TopLogprob):
    """A token of the text.

    Attributes:
        top: The most probable tokens in its place, most probable first, as many as requested.
    """

    top: tuple[TopLogprob, ...]


@dataclass(frozen=True)
class TextDelta:
    """A piece of the answer's text.

    Attributes:
        text: The piece; may be empty if there are log-probabilities.
        logprobs: Tokens of which `text` has the first characters, and tokens without text. Empty unless requested.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is neither text nor a log-probability."""
        return not self.text and not self.logprobs


class GeneratedText:
    """Text that was generated so far.

    Attributes:
        text: The text.
        logprobs: Log-probabilities of its tokens; empty unless requested.
    """

    def __init__(self) -> None:
        self.text = ""
        self.logprobs: list[TokenLogprob] = []
        self._token_ids: list[int] = []

    def append(self, delta: TextDelta) -> None:
        """Appends the next piece."""
        self.text += delta.text
        self.logprobs += delta.logprobs
        self._token_ids += (one.token_id for one in delta.logprobs)

    def exceeds(self, other: GeneratedText) -> bool:
        """Whether this has more text, or more log-probabilities, than another."""
        return len(self.text) > len(other.text) or len(self.logprobs) > len(other.logprobs)

    def after(self, sent: GeneratedText) -> TextDelta | None:
        """The part behind what was sent; None if this is another text, or has other tokens.

        A text that is not longer than the one that was sent is not compared with it.
        """
        num_characters, num_tokens = len(sent.text), len(sent.logprobs)
        delta = TextDelta(self.text[num_characters:], tuple(self.logprobs[num_tokens:]))
        is_other_text = bool(delta.text) and not self.text.startswith(sent.text)
        has_other_tokens = bool(delta.logprobs) and self._token_ids[:num_tokens] != sent._token_ids
        return None if is_other_text or has_other_tokens else delta

    def is_same(self, other: GeneratedText) -> bool:
        """Whether this is the same text with the same tokens."""
        return self.text == other.text and self._token_ids == other._token_ids
