"""Renamed special tokens: same ids for the template, plain text for the client."""

from __future__ import annotations

import itertools
import json
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from gateway.tokenization.guarded_tokenizer import GuardedTokenizer
from gateway.tokenization.text_placeholders import PromptSegment

IMAGE: Final = "<image>"


def tokenizer(token: AddedToken, normalizer: Any = None) -> Tokenizer:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if normalizer is not None:
        trained.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(["a red cat on a mat"] * 20, trainer)
    trained.add_special_tokens([token] if token.special else [])
    trained.add_tokens([] if token.special else [token])
    return trained


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
        flags["normalized"] = False  # the prepended character would be part of the token
    plain = tokenizer(AddedToken(IMAGE, special=True, **flags), normalizer)
    assert guarded(plain).encode([PromptSegment(text, False)], add_special_tokens=False) == plain.encode(text).ids
    between = [0, *sorted(cuts), len(text)]
    harmless = text.replace(IMAGE, "x")
    segments = [PromptSegment(harmless[a:b], bool(i % 2)) for i, (a, b) in enumerate(itertools.pairwise(between))]
    assert guarded(plain).encode(segments, add_special_tokens=False) == plain.encode(harmless).ids


@pytest.mark.parametrize("text", ["<image>", "red <image>.", "red<image>", "<image>1 <image>"])
def test_single_word_tokens_are_not_matched_inside_words(text: str) -> None:
    plain = tokenizer(AddedToken(IMAGE, special=True, single_word=True))
    assert guarded(plain).encode([PromptSegment(text, False)], add_special_tokens=False) == plain.encode(text).ids


@pytest.mark.parametrize("normalizer", [None, normalizers.NFKC(), normalizers.Lowercase()])
@pytest.mark.parametrize("typed", [IMAGE, "\uff1cimage\uff1e", "<IMAGE>", " <image> ", "<\u200bimage>"])
@pytest.mark.parametrize("flags", [{}, {"normalized": True}, {"lstrip": True, "rstrip": True}])
def test_special_tokens_in_client_text_are_plain_text(normalizer: Any, typed: str, flags: dict[str, bool]) -> None:
    plain = tokenizer(AddedToken(IMAGE, special=True, **flags), normalizer)
    special = plain.token_to_id(IMAGE)
    segments = [
        PromptSegment("a ", False),
        PromptSegment(typed, True),
        PromptSegment(IMAGE, False),
        PromptSegment(typed, True),
    ]
    assert guarded(plain).encode(segments, add_special_tokens=False).count(special) == 1
    assert special not in guarded(plain).encode_plain(typed, add_special_tokens=False)


def test_special_tokens_of_the_template_do_not_depend_on_adjacent_client_text() -> None:
    plain = tokenizer(AddedToken(IMAGE, special=True, normalized=True), normalizers.NFC())
    special, overlay = plain.token_to_id(IMAGE), "\N{COMBINING LONG SOLIDUS OVERLAY}"
    assert special not in plain.encode(IMAGE + overlay).ids  # NFC changes the last character of the token
    ids = guarded(plain).encode([PromptSegment(IMAGE, False), PromptSegment(overlay, True)], add_special_tokens=False)
    assert ids[0] == special


def test_merges_that_would_produce_a_special_token_are_removed() -> None:
    alphabet = sorted({*IMAGE, "r"})
    merges = [("<", "i"), ("m", "a"), ("g", "e"), ("<i", "ma"), ("ge", ">"), ("<ima", "ge>"), ("<image>", "r")]
    vocabulary = {word: i for i, word in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    plain = Tokenizer(models.BPE(vocabulary, merges))
    special = vocabulary[IMAGE]
    assert plain.encode(IMAGE).ids == [special]  # by its merges only
    plain.add_special_tokens([AddedToken(IMAGE, special=True)])
    tokenizer_under_test = guarded(plain)
    assert tokenizer_under_test.encode_plain(f"r{IMAGE}r", add_special_tokens=False) == [
        vocabulary[word] for word in ("r", "<ima", "ge>", "r")
    ]
    assert tokenizer_under_test.encode([PromptSegment(IMAGE, False)], add_special_tokens=False) == [special]


def test_tokens_named_by_the_configuration_are_special() -> None:
    plain = tokenizer(AddedToken(IMAGE, special=False))
    special = plain.token_to_id(IMAGE)
    for named in (IMAGE, special):
        assert special not in guarded(plain, named).encode_plain(IMAGE, add_special_tokens=False)
        assert guarded(plain, named).encode([PromptSegment(IMAGE, False)], add_special_tokens=False) == [special]
    assert guarded(plain).encode_plain(IMAGE, add_special_tokens=False) == [special]  # the token is not special here
