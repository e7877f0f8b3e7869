"""Checkpoints without weights: tokenizers, chat templates and configs, written by the classes of transformers."""

# ruff: noqa: S106  # special tokens are no passwords

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal, get_args

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    LlavaConfig,
    LlavaNextConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen3VLConfig,
    VideoLlavaConfig,
)

from benchmarks.checkpoints.tiny import llava, templates
from benchmarks.checkpoints.tiny.qwen import media_token_ids, qwen_tokenizer
from benchmarks.checkpoints.tiny.tokenizers import CLIP_BOS, CLIP_EOS, clip_bpe, language_tokenizer

__all__ = ["FAMILIES", "SPECIALS", "TAKE_VIDEOS", "Family", "Kind", "write_clip", "write_family", "write_llava"]

Kind = Literal["byte_level", "sentencepiece", "metaspace_with_bos_in_template"]
Family = Literal["llava", "llava_next", "video_llava", "qwen2_5_vl", "qwen3_vl"]
FAMILIES: Final[tuple[Family, ...]] = get_args(Family)
TAKE_VIDEOS: Final[tuple[Family, ...]] = ("video_llava", "qwen2_5_vl", "qwen3_vl")

SPECIALS: Final = list(templates.LLAVA_SPECIALS)
_CORPUS: Final = ["USER: what colour is the red circle in this picture? ASSISTANT: it is a cat on a mat"] * 20


def _bpe(kind: Kind) -> Any:
    if kind == "byte_level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        if kind == "sentencepiece":
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        alphabet = [chr(i) for i in range(33, 127)] + ["▁", "\n", "é"]
    trainer = trainers.BpeTrainer(
        vocab_size=450, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def write_llava(folder: Path, kind: Kind) -> Path:
    """Writes tokenizer.json, chat template, processor and config.json of a LLaVA; returns `folder`.

    Args:
        folder: Directory of the checkpoint, created if it is missing.
        kind: Kind of the tokenizer.
    """
    template = templates.LLAVA
    if kind == "metaspace_with_bos_in_template":
        template = "{{ bos_token }}" + template
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_bpe(kind),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    processor = llava.processor(tokenizer, image_size=28, chat_template=template)
    processor.save_pretrained(folder)
    config = {"model_type": "llava", "image_token_index": tokenizer.convert_tokens_to_ids("<image>")}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_clip(folder: Path) -> Path:
    """Writes tokenizer.json of a CLIP: lower case, end-of-word marks, BOS and EOS; returns `folder`."""
    # Every character is also a word of its own, so that none is unknown: CLIP's unknown token is its EOS.
    tokenizer = clip_bpe([*_CORPUS, " ".join(map(chr, range(33, 127)))])
    ids: dict[str, Any] = {token: tokenizer.token_to_id(token) for token in (CLIP_BOS, CLIP_EOS)}
    tokenizer.post_processor = processors.RobertaProcessing(
        (CLIP_EOS, ids[CLIP_EOS]), (CLIP_BOS, ids[CLIP_BOS]), False, False
    )
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_family(folder: Path, family: Family) -> Path:
    """Writes tokenizer.json, chat template and config.json of a family; returns `folder`."""
    if family in ("qwen2_5_vl", "qwen3_vl"):
        is_newer = family == "qwen3_vl"
        tokenizer = qwen_tokenizer(templates.QWEN3_VL if is_newer else templates.QWEN2_5_VL, media_names={})
        config = (Qwen3VLConfig if is_newer else Qwen2_5_VLConfig)(**media_token_ids(tokenizer))
    else:
        videos = ("<video>",) if family == "video_llava" else ()
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        tokenizer = language_tokenizer(("<unk>", "<s>", "</s>", "<pad>", "<image>", *videos), names, bos="<s>")
        image = tokenizer.convert_tokens_to_ids("<image>")
        if family == "video_llava":
            video = tokenizer.convert_tokens_to_ids("<video>")
            config = VideoLlavaConfig(image_token_index=image, video_token_index=video)
        else:
            config = (LlavaConfig if family == "llava" else LlavaNextConfig)(image_token_index=image)
        tokenizer.chat_template = {
            "llava": templates.LLAVA,
            "llava_next": templates.MISTRAL_STRICT,
            "video_llava": templates.VIDEO_LLAVA,
        }[family]
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    return folder
