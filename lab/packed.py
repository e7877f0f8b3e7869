"""Forward of a Llama over one image and many questions at once, for training.

Every question attends to the image and itself only, and its positions restart after the image. So its states equal
those of a prompt of its own, while the image, nine tenths of a prompt, is computed once for all questions. It uses the
weights of transformers' `LlamaForCausalLM` and is tested equal to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

# Number of blocks and tokens per block of each segment; the blocks of a segment are one after another.
Segments = tuple[tuple[int, int], ...]


def rotary_tables(length: int, size: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, `[length, size]` each, in the layout of `rotate_half`."""
    frequency = theta ** (-torch.arange(0, size, 2, device=device).float() / size)
    angle = torch.arange(length, device=device).float()[:, None] * frequency
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def _rms_norm(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    wide = hidden.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(hidden.dtype) * weight


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


def _causal(length: int, like: Tensor) -> Tensor:
    return torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device).triu(1)


def _attend(q: Tensor, k: Tensor, v: Tensor, prefix: int, segments: Segments) -> Tensor:
    """Causal attention of the prefix to itself, and of each block to the prefix and itself, `[B, H, T, d]`."""
    batch, heads, _, size = q.shape
    first_k, first_v = k[:, :, :prefix], v[:, :, :prefix]
    outputs = [(q[:, :, :prefix] @ first_k.mT + _causal(prefix, q)).softmax(-1) @ first_v]
    begin = prefix
    for blocks, length in segments:
        span = slice(begin, begin + blocks * length)
        begin = span.stop
        shape = (batch, heads, blocks, length, size)
        own_q, own_k, own_v = q[:, :, span].reshape(shape), k[:, :, span].reshape(shape), v[:, :, span].reshape(shape)
        to_prefix = (q[:, :, span] @ first_k.mT).view(batch, heads, blocks, length, prefix)
        to_own = own_q @ own_k.mT + _causal(length, q)
        weights = torch.cat([to_prefix, to_own], dim=-1).softmax(-1)
        from_prefix = weights[..., :prefix].reshape(batch, heads, blocks * length, prefix) @ first_v
        outputs.append(from_prefix + (weights[..., prefix:] @ own_v).reshape(batch, heads, blocks * length, size))
    return torch.cat(outputs, dim=2)


def packed_layer(
    hidden: Tensor,
    weights: tuple[Tensor, ...],
    cos: Tensor,
    sin: Tensor,
    heads: int,
    epsilon: float,
    prefix: int,
    segments: Segments,
) -> Tensor:
    """One Llama layer on `[B, T, width]`. It takes weights, not a module, so that one compilation serves all layers."""
    q_w, k_w, v_w, o_w, gate_w, up_w, down_w, norm1, norm2 = weights
    batch, length, width = hidden.shape
    size = width // heads
    qkv = functional.linear(_rms_norm(hidden, norm1, epsilon), torch.cat([q_w, k_w, v_w]))
    q, k, v = qkv.view(batch, length, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = _rotate(q * size**-0.5, cos, sin), _rotate(k, cos, sin)
    mixed = _attend(q, k, v, prefix, segments).transpose(1, 2).reshape(batch, length, width)
    hidden = hidden + functional.linear(mixed, o_w)
    gate, up = functional.linear(_rms_norm(hidden, norm2, epsilon), torch.cat([gate_w, up_w])).chunk(2, dim=-1)
    return hidden + functional.linear(functional.silu(gate) * up, down_w)


def layer_weights(layer: Any) -> tuple[Tensor, ...]:
    """Weights of a `LlamaDecoderLayer`, in the order of `packed_layer`."""
    a, m = layer.self_attn, layer.mlp
    linears = (a.q_proj, a.k_proj, a.v_proj, a.o_proj, m.gate_proj, m.up_proj, m.down_proj)
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    return tuple(module.weight for module in linears + norms)


def packed_hidden(
    model: LlavaForConditionalGeneration,
    features: Tensor,
    head_ids: Tensor,
    blocks: Sequence[Tensor],
    layer_function: Callable[..., Tensor] = packed_layer,
) -> Tensor:
    """Final, normalized states of all block tokens, `[B, sum of blocks * length, width]`.

    Args:
        model: LLaVA.
        features: visual tokens X[-2], pruned or not, `[B, N, tower width]`.
        head_ids: ids of the prompt before the image, `[P]`.
        blocks: ids of each segment's blocks, `[B, Q, L]`.
        layer_function: `packed_layer`, possibly compiled.
    """
    language = model.model.language_model
    config = model.config.text_config
    heads, epsilon = config.num_attention_heads, config.rms_norm_eps
    embed = language.embed_tokens
    batch = features.shape[0]
    prefix = len(head_ids) + features.shape[1]
    segments = tuple((ids.shape[1], ids.shape[2]) for ids in blocks)
    start = embed(head_ids).expand(batch, -1, -1)
    visual = model.model.multi_modal_projector(features)
    hidden = torch.cat([start, visual] + [embed(ids).flatten(1, 2) for ids in blocks], dim=1)
    device = hidden.device
    positions = [torch.arange(prefix, device=device)]
    positions += [(prefix + torch.arange(length, device=device)).repeat(count) for count, length in segments]
    longest = prefix + max(length for _, length in segments)
    theta = config.rope_parameters["rope_theta"]
    tables = rotary_tables(longest, config.head_dim, theta, device)
    cos, sin = (table[torch.cat(positions)].to(hidden.dtype) for table in tables)
    for layer in language.layers:
        hidden = layer_function(hidden, layer_weights(layer), cos, sin, heads, epsilon, prefix, segments)
    normed: Tensor = language.norm(hidden[:, prefix:])
    return normed
