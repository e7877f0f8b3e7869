"""Attention rows and rankings that several methods share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fovea.modeling.numerics import at_least_float32
from llm_service.pruners.base import LayerView, Moment

__all__ = ["attention_rows", "last_token_attention"]


def attention_rows(layer: LayerView, places: Tensor) -> Tensor:
    """[H, R, T] causal attention of the R places given to the whole sequence, at least float32."""
    queries, keys = at_least_float32(layer.queries(places)), at_least_float32(layer.keys())
    logits = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    return _causal_softmax(logits, places)


def last_token_attention(layer: LayerView, moment: Moment) -> Tensor:
    """[n]: attention of the last prompt token to each visual token, mean over the heads."""
    return attention_rows(layer, moment.last)[:, 0, moment.visual].mean(dim=0)


def _causal_softmax(logits: Tensor, places: Tensor) -> Tensor:
    future = torch.arange(logits.shape[-1], device=logits.device) > places[:, None]
    return logits.masked_fill(future, -torch.inf).softmax(dim=-1)
