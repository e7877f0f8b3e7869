"""CLIP's two towers as functions on transformers' modules, for training.

The arithmetic is that of transformers' eager attention, except that the softmax stays in the tensors' dtype. In
bfloat16 that saves two conversions of the largest tensor of every layer, a quarter of the time of a step. Tests compare
the results in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, CLIPVisionModel, PreTrainedTokenizerFast

from lab.checkpoint import IMAGE_MEAN, IMAGE_STD


def normalize_pixels(images: np.ndarray) -> Tensor:
    """Normalized pixels of CLIP, `[B, 3, H, W]` in bfloat16, from uint8 images `[B, H, W, 3]`."""
    return normalize_images(torch.from_numpy(images).permute(0, 3, 1, 2)).contiguous()


def normalize_images(images: Tensor) -> Tensor:
    """Normalized pixels of CLIP in bfloat16 from uint8 images, `[B, 3, H, W]` each."""
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) * 255 for values in (IMAGE_MEAN, IMAGE_STD))
    return ((images.float() - mean) / std).bfloat16()


def tower_of(model: CLIPModel | CLIPVisionModel) -> Any:
    """Module with embeddings and encoder, which versions of transformers nest differently."""
    inner: Any = model.vision_model
    return inner if hasattr(inner, "embeddings") else inner.vision_model


def encoder_layer(layer: Any, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """One CLIP encoder layer on `[B, N, width]`; `mask` `[N, N]` is added to the attention logits."""
    attention = layer.self_attn
    batch, rows, width = hidden.shape
    heads = attention.num_heads
    size = width // heads
    normed = layer.layer_norm1(hidden)
    linears = (attention.q_proj, attention.k_proj, attention.v_proj)
    weight = torch.cat([linear.weight for linear in linears])
    bias = torch.cat([linear.bias for linear in linears])
    qkv = functional.linear(normed, weight, bias).view(batch, rows, 3, heads, size).permute(2, 0, 3, 1, 4)
    logits = (qkv[0] * size**-0.5) @ qkv[1].mT
    if mask is not None:
        logits = logits + mask
    mixed = (logits.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(batch, rows, width)
    hidden = hidden + attention.out_proj(mixed)
    inner = layer.mlp.fc1(layer.layer_norm2(hidden))
    out: Tensor = hidden + layer.mlp.fc2(inner * torch.sigmoid(1.702 * inner))
    return out


def vision_states(tower: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """X[-2] and X[-1], `[B, 145, width]` each, as transformers numbers hidden states, from `[B, 3, H, W]`."""
    # A convolution whose stride is its size is a matrix product of patches, which is much faster in bfloat16.
    kernel = tower.embeddings.patch_embedding.weight
    size = kernel.shape[-1]
    batch, channels, height, width = pixels.shape
    patches = pixels.view(batch, channels, height // size, size, width // size, size).permute(0, 2, 4, 1, 3, 5)
    embedded = functional.linear(patches.reshape(batch, -1, channels * size * size), kernel.flatten(1))
    start = tower.embeddings.class_embedding.expand(batch, 1, -1)
    hidden = torch.cat([start, embedded], dim=1) + tower.embeddings.position_embedding.weight
    hidden = tower.pre_layrnorm(hidden)
    for layer in tower.encoder.layers[:-1]:
        hidden = encoder_layer(layer, hidden)
    return hidden, encoder_layer(tower.encoder.layers[-1], hidden)


def text_token_states(text_model: Any, input_ids: Tensor) -> Tensor:
    """Final, normalized state of every token, `[B, L, width]`, from ids `[B, L]`."""
    length = input_ids.shape[1]
    embeddings = text_model.embeddings
    hidden = embeddings.token_embedding(input_ids) + embeddings.position_embedding.weight[:length]
    mask = torch.full((length, length), float("-inf"), dtype=hidden.dtype, device=hidden.device).triu(1)
    for layer in text_model.encoder.layers:
        hidden = encoder_layer(layer, hidden, mask)
    normed: Tensor = text_model.final_layer_norm(hidden)
    return normed


def text_states(text_model: Any, input_ids: Tensor, eos: int) -> Tensor:
    """Final, normalized state at each text's first EOS, `[B, width]`, from ids `[B, L]`."""
    last = (input_ids == eos).int().argmax(-1)
    return text_token_states(text_model, input_ids)[torch.arange(len(last), device=last.device), last]


def embed_texts(model: CLIPModel, input_ids: Tensor, eos: int) -> Tensor:
    """Unit text vectors `[B, projection]` in float32, from ids `[B, L]` with an EOS each."""
    hidden = text_states(model.text_model, input_ids, eos)
    return functional.normalize(model.text_projection(hidden).float(), dim=-1)


def encode_texts(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """Unit text vectors `[len(texts), projection]`, float32."""
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    # The tower is causal and pools at the first EOS, so the padding after it (also EOS) needs no mask.
    return embed_texts(model, tokens["input_ids"], tokenizer.eos_token_id)
