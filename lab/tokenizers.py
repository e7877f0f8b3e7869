"""Tokenizers trained on the texts of a small world: CLIP's lower-cased BPE, and a byte-level BPE for the Llama.

Both fall back to bytes, so that any text can be tokenized. Words of the small world are single tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lab.captions import CONCEPTS, composite_caption, concept_text
from lab.questions import GROUPS, ask
from lab.scenes import sample_scene

BOS, EOS, PAD, IMAGE = "<s>", "</s>", "<pad>", "<image>"
CLIP_BOS, CLIP_EOS = "<|startoftext|>", "<|endoftext|>"
CLIP_CONTEXT = 77
PROMPT_HEAD = f"{BOS}USER: "
"""Prompt of the chat template before the image."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{{ ' ' }}"
    "{% else %}"
    "{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] in ('image', 'image_url') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% else %}{{ ' ' }}{% endif %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def _corpus(num_scenes: int = 1500) -> Iterator[str]:
    """Texts of the small world, with questions inside a prompt."""
    rng = np.random.default_rng(0)
    for index in range(num_scenes):
        scene = sample_scene("crowded" if index % 2 else "easy", index)
        yield composite_caption(scene, rng)
        yield concept_text(CONCEPTS[int(rng.integers(len(CONCEPTS)))], rng)
        for group in GROUPS:
            question = ask(scene, group, rng)
            if question is not None:
                yield f"USER: \n{question.text} ASSISTANT: {question.answer}"


def train_clip_tokenizer(corpus: Iterable[str] | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer with the layout of CLIP's: bytes, bytes that end a word, merges, then the two specials.

    Args:
        corpus: texts to train on; None: those of the small world.
    """
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=CLIP_EOS))
    normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus() if corpus is None else corpus, trainer)
    # The trainer adds "x</w>" only for letters that end a word of the corpus; CLIP's vocabulary has all 256 bytes.
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [byte + "</w>" for byte in alphabet] + [left + right for left, right in merges]
    vocab = {token: index for index, token in enumerate(dict.fromkeys([*tokens, CLIP_BOS, CLIP_EOS]))}
    tokenizer.model = models.BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>", unk_token=CLIP_EOS)
    tokenizer.add_special_tokens([CLIP_BOS, CLIP_EOS])
    tokenizer.post_processor = processors.RobertaProcessing(
        (CLIP_EOS, vocab[CLIP_EOS]), (CLIP_BOS, vocab[CLIP_BOS]), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("</w>", " "), decoders.Strip(" ", 0, 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=CLIP_BOS,
        eos_token=CLIP_EOS,
        unk_token=CLIP_EOS,
        pad_token=CLIP_EOS,
        model_max_length=CLIP_CONTEXT,
        padding_side="right",
    )


def train_llava_tokenizer(corpus: Iterable[str] | None = None, vocab_size: int = 720) -> PreTrainedTokenizerFast:
    """A byte-level BPE with Llama's specials, `<image>` and the LLaVA-1.5 chat template.

    Args:
        corpus: texts to train on; None: those of the small world.
        vocab_size: number of tokens, 256 bytes and the specials included.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [PAD, BOS, EOS, IMAGE]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus() if corpus is None else corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
        padding_side="left",
    )


def cached_ids(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], list[int]]:
    """Function from a text to its ids without special tokens. It caches them, since a world has few texts."""

    @cache
    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    return ids
