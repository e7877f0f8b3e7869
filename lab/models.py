"""Architectures of CLIP and LLaVA in several sizes, as transformers configurations."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class ModelSize:
    """Layers and widths of the towers and the language model, and the image and its patches in pixels.

    Heads have `head_width` channels, or all of a smaller width.
    """

    vision_layers: int
    vision_width: int
    text_layers: int
    text_width: int
    projection: int
    llama_layers: int
    llama_width: int
    llama_mlp: int
    head_width: int
    image_size: int
    patch_size: int

    def heads(self, width: int) -> int:
        """Number of heads of a layer of some width."""
        return max(1, width // self.head_width)


SMALL_WORLD = ModelSize(
    vision_layers=6,
    vision_width=128,
    text_layers=2,
    text_width=128,
    projection=128,
    llama_layers=8,
    llama_width=160,
    llama_mlp=320,
    head_width=32,
    image_size=IMAGE_SIZE,
    patch_size=PATCH_SIZE,
)


def vision_config(size: ModelSize) -> CLIPVisionConfig:
    """Configuration of the vision tower."""
    return CLIPVisionConfig(
        hidden_size=size.vision_width,
        intermediate_size=4 * size.vision_width,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.heads(size.vision_width),
        image_size=size.image_size,
        patch_size=size.patch_size,
        projection_dim=size.projection,
    )


def build_clip(tokenizer: PreTrainedTokenizerFast, seed: int = 0, size: ModelSize = SMALL_WORLD) -> CLIPModel:
    """A CLIP with fresh weights for the tokenizer's vocabulary."""
    torch.manual_seed(seed)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.text_width,
        intermediate_size=4 * size.text_width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.heads(size.text_width),
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


def build_llava(
    tokenizer: PreTrainedTokenizerFast, seed: int = 0, size: ModelSize = SMALL_WORLD
) -> LlavaForConditionalGeneration:
    """A LLaVA-1.5 with fresh weights; `adopt_vision_tower` copies CLIP's vision tower."""
    torch.manual_seed(seed)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.llama_width,
        intermediate_size=size.llama_mlp,
        num_hidden_layers=size.llama_layers,
        num_attention_heads=size.heads(size.llama_width),
        num_key_value_heads=size.heads(size.llama_width),
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
        image_seq_length=(size.image_size // size.patch_size) ** 2,
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
