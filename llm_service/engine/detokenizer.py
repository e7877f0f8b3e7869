"""Incremental detokenization of generated ids."""

from __future__ import annotations

from typing import Final

from tokenizers import Tokenizer

__all__ = ["IncrementalDetokenizer"]

# Output of a decoder for bytes that do not (yet) form a character.
_REPLACEMENT: Final = "\ufffd"


class IncrementalDetokenizer:
    """Emits whole characters only; the concatenated pieces equal `tokenizer.decode` of all ids.

    A character can take several tokens (byte-level BPE, byte fallback); its bytes are held back until it is complete.
    Special tokens are skipped. Each step decodes a window of ids: those since the last emission, preceded by those of
    the emission before it as context, because decoders treat the first token of a text differently (Llama's drops the
    leading space).

    One difference is intended: for bytes that are not UTF-8, some decoders (byte fallback) also turn valid neighbours
    into replacement characters. Text that has been emitted stays as it is.

    Attributes:
        holds_back: Flag: bytes of the last ids wait for the rest of a character.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._context: list[int] = []
        self._pending: list[int] = []
        self.holds_back = False

    def push(self, token_id: int) -> str:
        """Text that `token_id` completes; may be empty."""
        if token_id in self._special:
            return ""
        self._pending.append(token_id)
        text = self._new_text()
        self.holds_back = text.endswith(_REPLACEMENT)
        return "" if self.holds_back else self._emit(text)

    def flush(self) -> str:
        """Text held back at the end of the generation: bytes that never formed a character."""
        return self._emit(self._new_text())

    def _new_text(self) -> str:
        emitted = self._tokenizer.decode(self._context, skip_special_tokens=False)
        return self._tokenizer.decode(self._context + self._pending, skip_special_tokens=False)[len(emitted) :]

    def _emit(self, text: str) -> str:
        if text:  # an id without text (models pad their vocabulary) must not replace the context
            self._context, self._pending = self._pending, []
        return text
