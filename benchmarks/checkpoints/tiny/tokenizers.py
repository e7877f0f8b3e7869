"""Tokenizers of a few hundred ids: byte-level BPE for language models, and CLIP's for text towers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

__all__ = ["CLIP_BOS", "CLIP_EOS", "clip_bpe", "clip_tokenizer", "language_tokenizer", "vicuna_tokenizer"]

CLIP_BOS: Final = "<|startoftext|>"
CLIP_EOS: Final = "<|endoftext|>"
_CORPUS: Final = [
    "USER: what colour is the red circle in this picture? ASSISTANT: it is a cat on a mat",
    "user\nwhat happens in the video? assistant\nhow many objects are there, and where is the letter?",
] * 20


def language_tokenizer(specials: Sequence[str], names: Mapping[str, str], *, bos: str | None = None) -> Any:
    """Byte-level BPE as a `PreTrainedTokenizerFast`.

    Args:
        specials: Special tokens; their ids are 0, 1, 2, ...
        names: Special tokens by their names in transformers (`eos_token`, `image_token`, ...).
        bos: Special token in front of every text; None: no such token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(specials) + 300,
        show_progress=False,
        special_tokens=[AddedToken(special, special=True) for special in specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    known = {
        name: token for name, token in names.items() if name in ("bos_token", "eos_token", "unk_token", "pad_token")
    }
    extra = {name: token for name, token in names.items() if name not in known}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **known, extra_special_tokens=extra)


def vicuna_tokenizer(specials: Sequence[str], **visuals: str) -> Any:
    """The tokenizer of the LLaVA families, with BOS in front.

    Args:
        specials: Special tokens; their ids are 0, 1, 2, ...
        visuals: Tokens of images and videos by their names in transformers (`image_token`, `video_token`).
    """
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return language_tokenizer(specials, names | visuals, bos="<s>")


def clip_bpe(corpus: Iterable[str]) -> Tokenizer:
    """CLIP's BPE trained on a corpus: lower case and end-of-word marks, yet without BOS and EOS around a text."""
    tokenizer = Tokenizer(models.BPE(unk_token=CLIP_EOS, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(r"\s+", " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        show_progress=False,
        special_tokens=[CLIP_BOS, CLIP_EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def clip_tokenizer() -> Any:
    """CLIP's tokenizer: lower case, end-of-word marks, BOS and EOS around every text."""
    start, end = CLIP_BOS, CLIP_EOS
    tokenizer = clip_bpe(_CORPUS)
    ids = {token: tokenizer.token_to_id(token) for token in (start, end)}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", pair=f"{start} $A {end} $B {end}", special_tokens=list(ids.items())
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=start, eos_token=end, unk_token=end, pad_token=end
    )
