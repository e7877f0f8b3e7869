"""A tokenizer into which nobody can write special tokens."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Iterable
from typing import Any

from tokenizers import Tokenizer

from gateway.text_placeholders import PromptSegment

__all__ = ["GuardedTokenizer"]


class GuardedTokenizer:
    """A tokenizer whose special tokens answer to secret names only.

    Every special token is renamed to a string that nobody can guess, its id unchanged, and what the *template* wrote is
    translated to the new names. Template and client are then one text for the tokenizer, as they are for transformers,
    but a `</s>` that a client wrote, in one piece or across several, is four characters like any others. Nor does what
    stands beside a token of the template change it: it is found before anything is normalized.

    Args:
        spec: What tokenizer.json holds.
        named: Strings and ids of tokens that the checkpoint's configuration treats as special, whatever `spec` says.

    Attributes:
        contents: Special-token strings by id, as the checkpoint spells them.
    """

    def __init__(self, spec: dict[str, Any], named: Collection[str | int] = ()) -> None:
        specials = [
            token
            for token in spec["added_tokens"]
            if token["special"] or token["content"] in named or token["id"] in named
        ]
        self.contents: dict[int, str] = {token["id"]: token["content"] for token in specials}
        # Private-use characters and digits pass every normalizer unchanged.
        nonce = secrets.randbits(128)
        names = {i: f"\ue002{nonce}-{i}\ue003" for i in self.contents}
        self._secret = {content: names[i] for i, content in self.contents.items()}
        longest_first = sorted(specials, key=lambda token: len(token["content"]), reverse=True)
        self._pattern = re.compile("|".join(map(_spelling, longest_first)) or r"(?!)")
        for token in specials:
            token |= {"content": names[token["id"]], "single_word": False, "normalized": False}
        _rename(spec["model"], names)
        self._tokenizer = Tokenizer.from_str(json.dumps(spec))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, pieces: Iterable[PromptSegment], *, add_special_tokens: bool) -> list[int]:
        """Ids of a prompt: special-token strings become special tokens where the template wrote them."""
        text = "".join(piece.text if piece.from_client else self._with_secrets(piece.text) for piece in pieces)
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_plain(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Ids of `text` with nothing in it taken for a special token."""
        return self.encode([PromptSegment(text, from_client=True)], add_special_tokens=add_special_tokens)

    def _with_secrets(self, text: str) -> str:
        return self._pattern.sub(lambda match: self._secret[match[0]], text)


def _spelling(token: dict[str, Any]) -> str:
    """What a template writes for a token, as a regular expression."""
    spelling = re.escape(token["content"])
    return rf"(?<!\w){spelling}(?!\w)" if token["single_word"] else spelling


def _rename(model: dict[str, Any], names: dict[int, str]) -> None:
    """Renames the special tokens in a model's vocabulary, and takes away what would merge words into one."""
    vocabulary = model.get("vocab", {})
    if isinstance(vocabulary, dict):
        renamed = {word: names[i] for word, i in vocabulary.items() if i in names}
        model["vocab"] = {renamed.get(word, word): i for word, i in vocabulary.items()}
    else:  # unigram: pairs of word and score
        renamed = {word: names[i] for i, (word, _) in enumerate(vocabulary) if i in names}
        model["vocab"] = [[renamed.get(word, word), score] for word, score in vocabulary]
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _touches(merge, renamed)]
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]


def _touches(merge: str | list[str], words: Collection[str]) -> bool:
    """Whether a merge makes one of `words`, or takes one up."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    return "".join(pair) in words or any(part in words for part in pair)
