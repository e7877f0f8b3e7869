"""Architectures of the CLIP and the LLaVA at LLaVA-1.5's geometry: 24 x 24 patches of 14 pixels, and CLS."""

from __future__ import annotations

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from lab.tokenizers import CLIP_CONTEXT, IMAGE
from lab.world576.recipe import ModelSize
from lab.world576.scenes import IMAGE_SIZE, NUM_PATCHES, PATCH_SIZE


def _heads(width: int) -> int:
    return max(1, width // 64)


def vision_config(size: ModelSize) -> CLIPVisionConfig:
    """Configuration of the vision tower."""
    return CLIPVisionConfig(
        hidden_size=size.vision_width,
        intermediate_size=4 * size.vision_width,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=_heads(size.vision_width),
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=size.projection,
    )


def build_clip(size: ModelSize, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> CLIPModel:
    """A CLIP with fresh weights for the tokenizer's vocabulary."""
    torch.manual_seed(seed)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.text_width,
        intermediate_size=4 * size.text_width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=_heads(size.text_width),
        max_position_embeddings=CLIP_CONTEXT,
        projection_dim=size.projection,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = vision_config(size)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=size.projection)
    config._attn_implementation = "sdpa"
    return CLIPModel(config)


def build_llava(size: ModelSize, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlavaForConditionalGeneration:
    """A LLaVA-1.5 with fresh weights; `lab.models.adopt_vision_tower` copies CLIP's vision tower."""
    torch.manual_seed(seed)
    heads = _heads(size.llama_width)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.llama_width,
        intermediate_size=size.llama_mlp,
        num_hidden_layers=size.llama_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision_config(size),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=NUM_PATCHES,
        tie_word_embeddings=False,
    )
    return LlavaForConditionalGeneration(config)
