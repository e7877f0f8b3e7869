"""CLIP's tokenizer from vocab.json and merges.txt, for checkpoints without tokenizer.json (LanguageBind's)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["clip_tokenizer_spec"]

_BOS: Final = "<|startoftext|>"
_EOS: Final = "<|endoftext|>"
_WORDS: Final = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

_NORMALIZER: Final = {
    "type": "Sequence",
    "normalizers": [
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Lowercase"},
    ],
}
_PRE_TOKENIZER: Final = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Removed", "invert": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}


def clip_tokenizer_spec(vocabulary: Mapping[str, int], merges: str) -> dict[str, Any]:
    """Content of the equivalent tokenizer.json.

    Args:
        vocabulary: Ids by token, from vocab.json.
        merges: Text of merges.txt: a first line that begins with #version, then one pair a line in order of priority.

    Raises:
        ValueError: BOS or EOS is not in the vocabulary.
    """
    if _BOS not in vocabulary or _EOS not in vocabulary:
        raise ValueError(f"vocab.json of the text tower does not hold {_BOS} and {_EOS}, as CLIP's does")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special_token(token, vocabulary[token]) for token in (_BOS, _EOS)],
        "normalizer": _NORMALIZER,
        "pre_tokenizer": _PRE_TOKENIZER,
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [_EOS, vocabulary[_EOS]],
            "cls": [_BOS, vocabulary[_BOS]],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": _EOS,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": dict(vocabulary),
            "merges": _merge_pairs(merges),
        },
    }


def _special_token(token: str, token_id: int) -> dict[str, Any]:
    return {
        "id": token_id,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _merge_pairs(merges: str) -> list[list[str]]:
    lines = [line for line in merges.splitlines() if line.strip() and not line.startswith("#version")]
    return [line.split() for line in lines]
