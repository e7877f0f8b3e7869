"""A tokenizer into which nobody can write special tokens."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection
from typing import Any

from tokenizers import Tokenizer

__all__ = ["GuardedTokenizer"]


class GuardedTokenizer:
    """A tokenizer whose special tokens answer to secret names only.

    Every special token is renamed to a string that nobody can guess, its id unchanged; only what the *template* wrote,
    and the user's marks, are translated to the new names. A `</s>` typed by a user is then four characters like any
    others.

    Args:
        spec: What tokenizer.json holds.

    Attributes:
        contents: Special-token strings by id, as the checkpoint spells them.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        specials = [token for token in spec["added_tokens"] if token["special"]]
        self.contents: dict[int, str] = {token["id"]: token["content"] for token in specials}
        # Private-use characters and digits pass every normalizer, and a template's `upper` or `trim`, unchanged.
        nonce = f"{secrets.randbits(64):020}"
        self._secret = {content: f"\ue000{nonce}{i}\ue001" for i, content in self.contents.items()}
        self._shield = {content: f"\ue002{nonce}{i}\ue003" for i, content in self.contents.items()}
        for token in specials:
            token["content"] = self._secret[token["content"]]
        self._rename_vocabulary(spec["model"])
        longest_first = sorted(self._secret, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._shielded = {shield: content for content, shield in self._shield.items()}
        self._shield_pattern = re.compile(f"\ue002{nonce}[0-9]+\ue003")
        self._tokenizer = Tokenizer.from_str(json.dumps(spec))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def _rename_vocabulary(self, model: dict[str, Any]) -> None:
        vocabulary = model.get("vocab", {})
        if isinstance(vocabulary, dict):
            model["vocab"] = {self._secret.get(word, word): i for word, i in vocabulary.items()}
        else:  # unigram: pairs of word and score
            model["vocab"] = [[self._secret.get(word, word), score] for word, score in vocabulary]
        if model.get("unk_token") in self._secret:
            model["unk_token"] = self._secret[model["unk_token"]]

    def shield(self, text: str, *, but: Collection[str] = ()) -> str:
        """`text` with its special-token strings hidden from `encode`, except those of `but`."""
        return self._pattern.sub(lambda m: m[0] if m[0] in but else self._shield[m[0]], text)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Ids of `text`: special-token strings become special tokens, shielded ones plain text."""
        text = self._pattern.sub(lambda m: self._secret[m[0]], text)
        text = self._shield_pattern.sub(lambda m: self._shielded.get(m[0], m[0]), text)
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_plain(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Ids of `text` with nothing in it taken for a special token."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
