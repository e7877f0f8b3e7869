"""The concatenated pieces are the text; a piece has whole characters only."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from llm_service.engine.detokenizer import IncrementalDetokenizer


def byte_level() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"</s>": 0, **{symbol: i + 1 for i, symbol in enumerate(alphabet)}}
    vocab |= {merged: len(vocab) + i for i, merged in enumerate(["Ġa", "th", "ðŁ"])}
    tokenizer = Tokenizer(models.BPE(vocab, [("Ġ", "a"), ("t", "h"), ("ð", "Ł")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return tokenizer


def llama() -> Tokenizer:
    """A tokenizer like Llama's: words begin with ▁, other text falls back to bytes, decoding drops a leading space."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdehlorw ", "▁a", "he"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocab, [("▁", "a"), ("h", "e")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return tokenizer


TOKENIZERS = {"byte_level": byte_level(), "llama": llama()}


def pieces(tokenizer, ids):
    detokenizer = IncrementalDetokenizer(tokenizer)
    return [*(detokenizer.push(i) for i in ids), detokenizer.flush()]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text(st.sampled_from("ab he\N{SLIGHTLY SMILING FACE}é漢\U0001f469\u200d"), max_size=30))
@settings(max_examples=150, deadline=None)
def test_concatenated_pieces_are_the_text(name, text):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text).ids
    emitted = pieces(tokenizer, ids)
    assert "".join(emitted) == tokenizer.decode(ids, skip_special_tokens=True) == text
    assert not any("\ufffd" in piece for piece in emitted)


@given(ids=st.lists(st.integers(0, TOKENIZERS["byte_level"].get_vocab_size() - 1), max_size=40))
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_not_text_come_out_as_in_decode(ids):
    tokenizer = TOKENIZERS["byte_level"]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_emoji_comes_whole_with_its_last_token(name):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode("a🙂b").ids
    emitted = [piece for piece in pieces(tokenizer, ids) if piece]
    assert emitted == ["a", "🙂", "b"]
    assert len(ids) > 4


@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_tokens_leave_no_trace_in_the_middle_of_a_text(name):
    tokenizer = TOKENIZERS[name]
    ids, special = tokenizer.encode("ah a").ids, tokenizer.token_to_id("</s>")
    assert "".join(pieces(tokenizer, [special, *ids[:2], special, *ids[2:]])) == "ah a"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_of_a_padded_vocabulary_write_nothing(name):
    """A model may have more ids than its tokenizer; words after such an id keep their spaces."""
    tokenizer = TOKENIZERS[name]
    ids, unknown = tokenizer.encode("ah a").ids, tokenizer.get_vocab_size() + 7
    assert "".join(pieces(tokenizer, [*ids[:-1], unknown, ids[-1]])) == "ah a"


def test_an_unfinished_character_comes_out_at_the_end():
    tokenizer = TOKENIZERS["byte_level"]
    emitted = pieces(tokenizer, tokenizer.encode("a🙂").ids[:-1])
    assert emitted[0] == "a"
    assert "".join(emitted[:-1]) == "a"
    assert emitted[-1] == "\ufffd"
