"""Attention weights that several methods share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fovea.modeling.numerics import at_least_float32
from llm_service.pruners.base import LayerAttention, PruningContext

__all__ = ["attention_weights", "last_token_attention"]


def attention_weights(layer: LayerAttention, indices: Tensor) -> Tensor:
    """[H, R, T] causal attention of the tokens at R indices to the whole sequence, at least float32."""
    queries, keys = at_least_float32(layer.queries(indices)), at_least_float32(layer.keys())
    logits = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    return _causal_softmax(logits, indices)


def last_token_attention(layer: LayerAttention, context: PruningContext) -> Tensor:
    """[n] attention of the last prompt token to each visual token, mean over the heads."""
    return attention_weights(layer, context.last_index)[:, 0, context.visual_indices].mean(dim=0)


def _causal_softmax(logits: Tensor, indices: Tensor) -> Tensor:
    future = torch.arange(logits.shape[-1], device=logits.device) > indices[:, None]
    return logits.masked_fill(future, -torch.inf).softmax(dim=-1)
