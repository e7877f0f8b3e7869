"""Renamed special tokens do all that they did under their own names, but for whoever types those."""

from __future__ import annotations

import itertools
import json
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from gateway.guarded_tokenizer import GuardedTokenizer
from gateway.text_placeholders import PromptSegment

IMAGE: Final = "<image>"


def tokenizer(token: AddedToken, normalizer: Any = None) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if normalizer is not None:
        made.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["a red cat on a mat"] * 20, trainer)
    made.add_special_tokens([token] if token.special else [])
    made.add_tokens([] if token.special else [token])
    return made


def guarded(plain: Tokenizer, *named: str | int) -> GuardedTokenizer:
    return GuardedTokenizer(json.loads(plain.to_str()), named)


FLAGS: Final = st.fixed_dictionaries(dict.fromkeys(("lstrip", "rstrip", "normalized"), st.booleans()))
NORMALIZERS: Final = st.sampled_from(
    [
        None,
        normalizers.Lowercase(),
        normalizers.NFKC(),
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    ]
)
TEXTS: Final = st.lists(st.sampled_from([IMAGE, "red", " ", "\n", "Cat", "e\u0301", "▁"]), max_size=8).map("".join)


@settings(max_examples=200, deadline=None)
@given(flags=FLAGS, normalizer=NORMALIZERS, text=TEXTS, cuts=st.lists(st.integers(0, 40), max_size=3))
def test_what_the_template_writes_has_the_ids_of_the_tokenizer(
    flags: dict[str, bool], normalizer: Any, text: str, cuts: list[int]
) -> None:
    if isinstance(normalizer, normalizers.Sequence):
        flags["normalized"] = False  # what begins every text begins the token too: it would be found there alone
    plain = tokenizer(AddedToken(IMAGE, special=True, **flags), normalizer)
    assert guarded(plain).encode([PromptSegment(text, False)], add_special_tokens=False) == plain.encode(text).ids
    between = [0, *sorted(cuts), len(text)]
    harmless = text.replace(IMAGE, "x")
    pieces = [PromptSegment(harmless[a:b], bool(i % 2)) for i, (a, b) in enumerate(itertools.pairwise(between))]
    assert guarded(plain).encode(pieces, add_special_tokens=False) == plain.encode(harmless).ids


@pytest.mark.parametrize("text", ["<image>", "red <image>.", "red<image>", "<image>1 <image>"])
def test_a_token_that_stands_alone_is_none_within_a_word(text: str) -> None:
    plain = tokenizer(AddedToken(IMAGE, special=True, single_word=True))
    assert guarded(plain).encode([PromptSegment(text, False)], add_special_tokens=False) == plain.encode(text).ids


@pytest.mark.parametrize("normalizer", [None, normalizers.NFKC(), normalizers.Lowercase()])
@pytest.mark.parametrize("typed", [IMAGE, "\uff1cimage\uff1e", "<IMAGE>", " <image> ", "<\u200bimage>"])
@pytest.mark.parametrize("flags", [{}, {"normalized": True}, {"lstrip": True, "rstrip": True}])
def test_no_spelling_of_a_special_token_is_one_where_a_client_types_it(
    normalizer: Any, typed: str, flags: dict[str, bool]
) -> None:
    plain = tokenizer(AddedToken(IMAGE, special=True, **flags), normalizer)
    special = plain.token_to_id(IMAGE)
    pieces = [
        PromptSegment("a ", False),
        PromptSegment(typed, True),
        PromptSegment(IMAGE, False),
        PromptSegment(typed, True),
    ]
    assert guarded(plain).encode(pieces, add_special_tokens=False).count(special) == 1
    assert special not in guarded(plain).encode_plain(typed, add_special_tokens=False)


def test_a_token_of_the_template_stays_one_whatever_a_client_writes_beside_it() -> None:
    plain = tokenizer(AddedToken(IMAGE, special=True, normalized=True), normalizers.NFC())
    special, overlay = plain.token_to_id(IMAGE), "\N{COMBINING LONG SOLIDUS OVERLAY}"
    assert special not in plain.encode(IMAGE + overlay).ids  # the last character of the token becomes another
    ids = guarded(plain).encode([PromptSegment(IMAGE, False), PromptSegment(overlay, True)], add_special_tokens=False)
    assert ids[0] == special


def test_a_word_that_became_a_special_token_is_not_merged_into_one() -> None:
    alphabet = sorted({*IMAGE, "r"})
    merges = [("<", "i"), ("m", "a"), ("g", "e"), ("<i", "ma"), ("ge", ">"), ("<ima", "ge>"), ("<image>", "r")]
    vocabulary = {word: i for i, word in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    plain = Tokenizer(models.BPE(vocabulary, merges))
    special = vocabulary[IMAGE]
    assert plain.encode(IMAGE).ids == [special]  # by its merges alone
    plain.add_special_tokens([AddedToken(IMAGE, special=True)])
    made = guarded(plain)
    assert made.encode_plain(f"r{IMAGE}r", add_special_tokens=False) == [
        vocabulary[word] for word in ("r", "<ima", "ge>", "r")
    ]
    assert made.encode([PromptSegment(IMAGE, False)], add_special_tokens=False) == [special]


def test_a_token_is_special_where_the_configuration_says_so() -> None:
    plain = tokenizer(AddedToken(IMAGE, special=False))
    special = plain.token_to_id(IMAGE)
    for named in (IMAGE, special):
        assert special not in guarded(plain, named).encode_plain(IMAGE, add_special_tokens=False)
        assert guarded(plain, named).encode([PromptSegment(IMAGE, False)], add_special_tokens=False) == [special]
    assert guarded(plain).encode_plain(IMAGE, add_special_tokens=False) == [special]  # nothing depends on it
