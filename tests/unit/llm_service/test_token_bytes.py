"""Bytes of single tokens: together they are the text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_service.engine.token_bytes import TokenBytes
from tests.unit.llm_service.test_detokenizer import TOKENIZERS


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text(st.sampled_from("ab he\N{SLIGHTLY SMILING FACE}é漢\ufffd\U0001f469\u200d"), max_size=30))
@settings(max_examples=150, deadline=None)
def test_concatenated_bytes_are_the_text(name, text):
    tokenizer = TOKENIZERS[name]
    token_bytes = TokenBytes(tokenizer)
    joined = b"".join(token_bytes[i] for i in tokenizer.encode(text).ids)
    # Llama's tokenizer writes a space before the first word, which its decoder drops.
    assert joined.decode() == (" " + text if name == "llama" and text else text)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_byte_is_a_token_by_itself(name):
    tokenizer = TOKENIZERS[name]
    token_bytes = TokenBytes(tokenizer)
    every = [token_bytes[i] for i in range(tokenizer.get_vocab_size())]
    assert {bytes([byte]) for byte in range(256)} <= set(every)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_tokens_have_their_name_and_unknown_ids_no_bytes(name):
    tokenizer = TOKENIZERS[name]
    assert TokenBytes(tokenizer)[tokenizer.token_to_id("</s>")] == b"</s>"
    assert TokenBytes(tokenizer)[tokenizer.get_vocab_size() + 7] == b""
