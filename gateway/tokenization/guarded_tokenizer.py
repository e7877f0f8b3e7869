"""Tokenizer with a guard against special-token injection."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Iterable
from typing import Any

from tokenizers import Tokenizer

from gateway.tokenization.text_placeholders import PromptSegment

__all__ = ["GuardedTokenizer"]


class GuardedTokenizer:
    """A tokenizer whose special tokens can be written by the chat template only.

    Each special token is renamed to a secret string and keeps its id. Only text of the template is translated to the
    secret strings. Template and client text are then tokenized as one text, as transformers does. A `</s>` of the
    client, in one segment or across several, stays plain text. A special token of the template does not depend on the
    text beside it, because special tokens are matched before normalization.

    Args:
        spec: Content of tokenizer.json; modified in place.
        named: Strings and ids of further tokens that the checkpoint's configuration treats as special.

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
        secret_by_id = {i: f"\ue002{nonce}-{i}\ue003" for i in self.contents}
        self._secret_by_content = {content: secret_by_id[i] for i, content in self.contents.items()}
        longest_first = sorted(specials, key=lambda token: len(token["content"]), reverse=True)
        self._pattern = re.compile("|".join(map(_token_pattern, longest_first)) or r"(?!)")
        for token in specials:
            token |= {"content": secret_by_id[token["id"]], "single_word": False, "normalized": False}
        _rename_specials(spec["model"], secret_by_id)
        self._tokenizer = Tokenizer.from_str(json.dumps(spec))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, segments: Iterable[PromptSegment], *, add_special_tokens: bool) -> list[int]:
        """Ids of a prompt. Special-token strings become special tokens in the segments of the template only."""
        text = "".join(
            segment.text if segment.from_client else self._with_secrets(segment.text) for segment in segments
        )
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_plain(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Ids of `text`, in which special-token strings are plain text."""
        return self.encode([PromptSegment(text, from_client=True)], add_special_tokens=add_special_tokens)

    def _with_secrets(self, text: str) -> str:
        return self._pattern.sub(lambda match: self._secret_by_content[match[0]], text)


def _token_pattern(token: dict[str, Any]) -> str:
    """Regular expression of a special token's string."""
    content = re.escape(token["content"])
    return rf"(?<!\w){content}(?!\w)" if token["single_word"] else content


def _rename_specials(model: dict[str, Any], names: dict[int, str]) -> None:
    """Renames the special tokens in a model's vocabulary and removes the merges that produce or use them."""
    vocabulary = model.get("vocab", {})
    if isinstance(vocabulary, dict):
        renamed = {token: names[i] for token, i in vocabulary.items() if i in names}
        model["vocab"] = {renamed.get(token, token): i for token, i in vocabulary.items()}
    else:  # unigram: pairs of token and score
        renamed = {token: names[i] for i, (token, _) in enumerate(vocabulary) if i in names}
        model["vocab"] = [[renamed.get(token, token), score] for token, score in vocabulary]
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _involves(merge, renamed)]
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]


def _involves(merge: str | list[str], tokens: Collection[str]) -> bool:
    """Whether a merge produces or uses one of `tokens`."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    return "".join(pair) in tokens or any(part in tokens for part in pair)
