"""Ids to text, piece by piece, as they are generated."""

from __future__ import annotations

from typing import Final

from tokenizers import Tokenizer

__all__ = ["IncrementalDetokenizer"]

# What a decoder writes for bytes that are no whole character (yet).
_REPLACEMENT: Final = "\ufffd"


class IncrementalDetokenizer:
    """Emits whole characters only; the pieces joined are the text that `tokenizer.decode` gives for all ids.

    A character may take several tokens (byte-level BPE, byte fallback); its bytes are held back until it is whole.
    Special tokens are skipped. Only a window of ids is decoded at each step: those since the last emission, after those
    of the emission before it. The latter give context, since decoders treat the first token of a text apart (Llama's
    drops the leading space).

    One difference is wanted: where a model emits bytes that are no UTF-8, some decoders (byte fallback) turn the valid
    neighbours into replacement characters too; here what has been emitted is never taken back.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes; often a word, sometimes nothing."""
        if token_id in self._special:
            return ""
        self._pending.append(token_id)
        text = self._new_text()
        if text.endswith(_REPLACEMENT):
            return ""
        return self._emit(text)

    def flush(self) -> str:
        """What is still held back at the end of the generation: bytes that never became a character."""
        return self._emit(self._new_text())

    def _new_text(self) -> str:
        known = self._tokenizer.decode(self._context, skip_special_tokens=False)
        return self._tokenizer.decode(self._context + self._pending, skip_special_tokens=False)[len(known) :]

    def _emit(self, text: str) -> str:
        if text:  # after an id that writes nothing (models pad their vocabulary) the context is still needed
            self._context, self._pending = self._pending, []
        return text
