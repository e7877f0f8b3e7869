"""Architectures of the small CLIP and LLaVA, as transformers configurations."""

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

from lab.scenes import IMAGE_SIZE, PATCH_SIZE
from lab.tokenizers import CLIP_CONTEXT, IMAGE

WIDTH = 128
PROJECTION = 128


def vision_config() -> CLIPVisionConfig:
    """Configuration of the vision tower: 6 layers of width 128 with 4 heads; 144 patches and CLS."""
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=PROJECTION,
    )


def build_clip(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> CLIPModel:
    """A CLIP with fresh weights for the tokenizer's vocabulary."""
    torch.manual_seed(seed)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CLIP_CONTEXT,
        projection_dim=PROJECTION,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision_config().to_dict(), projection_dim=PROJECTION)
    config._attn_implementation = "sdpa"
    return CLIPModel(config)


def build_llava(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlavaForConditionalGeneration:
    """A LLaVA-1.5 with an 8-layer Llama and fresh weights; `adopt_vision_tower` copies CLIP's vision tower."""
    torch.manual_seed(seed)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=320,
        num_hidden_layers=8,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        tie_word_embeddings=False,
    )
    return LlavaForConditionalGeneration(config)


def adopt_vision_tower(llava: LlavaForConditionalGeneration, clip: CLIPModel) -> None:
    """Copies CLIP's vision tower, last layer included, into the LLaVA."""
    source = {f"vision_model.{key}": value for key, value in clip.vision_model.state_dict().items()}
    target = llava.model.vision_tower
    own = target.state_dict()
    if not all(key in own for key in source):  # transformers >= 5.?: the tower has no inner `vision_model`
        source = {key.removeprefix("vision_model."): value for key, value in source.items()}
    target.load_state_dict(source)
