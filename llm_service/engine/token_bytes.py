"""Bytes of single tokens."""

from __future__ import annotations

import re
from typing import Final

from tokenizers import Tokenizer

__all__ = ["TokenBytes"]

# Output of a decoder for bytes that do not form a character by themselves.
_REPLACEMENT: Final = "\ufffd"
_BYTE_PIECE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """Byte of each character in the pieces of a byte-level BPE (Radford et al. 2019, GPT-2).

    Bytes that are printable in Latin-1 stand for themselves, the others for the characters from 256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_ALPHABET: Final = _byte_level_alphabet()


class TokenBytes:
    """Bytes of tokens, by id: those that a token gives to a text that other tokens precede.

    The bytes of the tokens of a text, one after the other, are the text in UTF-8, also where a character takes several
    tokens. The bytes of a special token are its name, such as `</s>`.

    Args:
        tokenizer: Tokenizer of the checkpoint.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[int, bytes] = {}

    def __getitem__(self, token_id: int) -> bytes:
        """Bytes of a token; empty for an id that the tokenizer does not have."""
        if token_id not in self._cache:
            self._cache[token_id] = self._bytes(token_id)
        return self._cache[token_id]

    def _bytes(self, token_id: int) -> bytes:
        # Decoders treat the first token of a text differently (Llama's drops the leading space), hence the second.
        once, twice = (self._tokenizer.decode([token_id] * n, skip_special_tokens=False) for n in (1, 2))
        if _REPLACEMENT not in once:
            return twice[len(once) :].encode()
        piece = self._tokenizer.id_to_token(token_id) or ""
        if byte := _BYTE_PIECE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        if all(character in _ALPHABET for character in piece):
            return bytes(map(_ALPHABET.__getitem__, piece))
        return once.encode()
