"""LLaVAs for the tests of the language side: 3 or 12 layers, Llama or Mistral, random or crafted weights."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

__all__ = ["RECITED", "make_llava", "make_peaked_llava", "make_reciting_llava", "make_tokenizer", "save"]

_SPECIALS: Final = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
_BOS, _EOS, _IMAGE = 1, 2, 4

# The answer of `make_reciting_llava`. No byte comes twice, so each token has one successor.
RECITED: Final = "Hi 🙂,é_漢STOP!"


def make_tokenizer() -> Any:
    """Byte-level BPE with a few merges, in which some characters take several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        show_progress=False,
        special_tokens=[AddedToken(s, special=True) for s in _SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["what is the content of this image? a cat on a mat"] * 20, trainer)
    return tokenizer


def make_llava(vocab_size: int, num_layers: int = 3, text_config: type[Any] = LlamaConfig) -> Any:
    """A random LLaVA whose answers never end.

    Args:
        vocab_size: Size of the vocabulary.
        num_layers: Layers of the language model.
        text_config: Class of the language model's config.
    """
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14
    )
    text = text_config(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocab_size,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=_BOS,
        eos_token_id=_EOS,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=_IMAGE))
    # A logit of 0 is never the largest: answers run to max_tokens.
    model.lm_head.weight.data[_EOS] = 0
    return model.eval()


def save(model: Any, directory: Path, tokenizer: Tokenizer) -> Path:
    """Writes a checkpoint in the hub's layout of tensor names; returns `directory`."""
    model.save_pretrained(directory)
    weights = directory / "model.safetensors"
    renamed = {
        name.replace("vision_tower.", "vision_tower.vision_model.", 1): t for name, t in load_file(weights).items()
    }
    save_file(renamed, weights, metadata={"format": "pt"})
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def make_peaked_llava(vocab_size: int) -> Any:
    """A LLaVA of twelve layers whose attention is peaked, so that the choices of pruners are clear."""
    model = make_llava(vocab_size, num_layers=12)
    for layer in model.model.language_model.layers:
        layer.self_attn.q_proj.weight.data *= 2
        layer.self_attn.k_proj.weight.data *= 2
    return model


def make_reciting_llava(tokenizer: Tokenizer) -> Any:
    """A LLaVA that answers RECITED to any prompt that ends in BOS.

    Its layers add nothing, so the embedding of a token alone decides; the head maps it to the token's successor.
    """
    model = make_llava(tokenizer.get_vocab_size())
    llama = model.model.language_model
    for layer in llama.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    chain = [_BOS, *tokenizer.encode(RECITED).ids, _EOS]
    assert len(set(chain)) == len(chain)
    model.lm_head.weight.data.zero_()
    for token, successor in itertools.pairwise(chain):
        model.lm_head.weight.data[successor] = llama.embed_tokens.weight.data[token]
    return model
