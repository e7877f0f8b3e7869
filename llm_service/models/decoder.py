"""A Llama run layer by layer, and the attention of its layers.

`LlamaModel.forward` runs all layers over one sequence length. Pruning between layers needs its own loop over the
layers; the layers, their attention kernel and their cache are those of transformers, unchanged.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

__all__ = ["DecoderLayerAttention", "LayeredDecoder", "Rotary", "runs_layer_by_layer"]

# Families whose attention consists of q_proj, k_proj, v_proj and a rotation of whole heads.
_MODEL_TYPES: Final = frozenset({"llama"})

Rotary = tuple[Tensor, Tensor]


def runs_layer_by_layer(causal_lm: Any) -> bool:
    """Whether `LayeredDecoder` supports a language model."""
    return causal_lm.config.model_type in _MODEL_TYPES


class LayeredDecoder:
    """The parts of a causal language model of transformers. B sequences of T tokens of width D; L layers.

    Attributes:
        config: transformers' configuration.
        num_layers: L.
    """

    def __init__(self, causal_lm: Any) -> None:
        self.config = causal_lm.config
        self._causal_lm = causal_lm
        self._model = causal_lm.model
        self.num_layers: int = len(self._model.layers)
        self._attn_implementation: str = causal_lm.config._attn_implementation

    def embed(self, token_ids: Tensor) -> Tensor:
        """[..., D] embeddings of int64 ids [...]."""
        embedded: Tensor = self._model.embed_tokens(token_ids)
        return embedded

    def rotary(self, position_ids: Tensor) -> Rotary:
        """Cosines and sines [B, T, d] of position ids [B, T], in the dtype of the weights."""
        tables: Rotary = self._model.rotary_emb(self._model.norm.weight, position_ids)
        return tables

    def layer(self, index: int, hidden: Tensor, rotary: Rotary, mask: Tensor | None, cache: DynamicCache) -> Tensor:
        """[B, T, D] output of one layer for `hidden` [B, T, D]. Appends the layer's keys and values to the cache."""
        output: Tensor = self._model.layers[index](
            hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=cache, use_cache=True
        )
        return output

    def norm(self, hidden: Tensor) -> Tensor:
        """The final norm, after the last layer."""
        normed: Tensor = self._model.norm(hidden)
        return normed

    def logits(self, normed: Tensor) -> Tensor:
        """[..., V] float32 logits of normed states [..., D]."""
        logits: Tensor = self._causal_lm.lm_head(normed)
        return logits.float()

    def causal_mask(self, length: int) -> Tensor | None:
        """Mask for the prefill of one sequence without padding; None for kernels that mask by themselves."""
        if self._attn_implementation != "eager":
            return None
        weight = self._model.norm.weight
        ones = torch.ones(length, length, dtype=torch.bool, device=weight.device)
        return _additive_mask(ones.tril(), weight.dtype)[None, None]

    def attention(
        self, index: int, hidden: Tensor, rotary: Rotary, cache: DynamicCache | None = None
    ) -> DecoderLayerAttention:
        """Attention of layer `index` on `hidden` [T, D]. If there is a cache, keys and values are read from it."""
        layer = self._model.layers[index]
        cached = None if cache is None else (cache.layers[index].keys[0], cache.layers[index].values[0])
        return DecoderLayerAttention(
            layer.self_attn, layer.input_layernorm, hidden, (rotary[0][0], rotary[1][0]), cached
        )


class DecoderLayerAttention:
    """A `pruners.base.LayerAttention` that computes lazily."""

    def __init__(
        self, attention: Any, norm: Any, hidden: Tensor, rotary: Rotary, cached: tuple[Tensor, Tensor] | None
    ) -> None:
        self._attention = attention
        self._norm = norm
        self._hidden = hidden
        self._cached = cached
        self.rotary = rotary

    def queries(self, indices: Tensor) -> Tensor:
        """[H, R, d] queries of R tokens."""
        cos, sin = (table[indices] for table in self.rotary)
        return self._rotated(self._attention.q_proj(self._norm(self._hidden[indices])), cos, sin)

    def keys(self) -> Tensor:
        """[H, T, d] keys."""
        if self._cached is None:
            return self._repeat_heads(self._rotated(self._attention.k_proj(self._norm(self._hidden)), *self.rotary))
        return self._repeat_heads(self._cached[0])

    def values(self) -> Tensor:
        """[H, T, d] values."""
        if self._cached is None:
            return self._repeat_heads(self._heads(self._attention.v_proj(self._norm(self._hidden))))
        return self._repeat_heads(self._cached[1])

    def raw_keys(self, indices: Tensor) -> Tensor:
        """[R, C] keys of R tokens, without the layer's norm and without rotation."""
        keys: Tensor = self._attention.k_proj(self._hidden[indices])
        return keys

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.view(len(projected), -1, self._attention.head_dim).transpose(0, 1)

    def _rotated(self, projected: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        heads = self._heads(projected)[None]
        rotated: Tensor = apply_rotary_pos_emb(heads, heads, cos[None], sin[None])[0]
        return rotated[0]

    def _repeat_heads(self, heads: Tensor) -> Tensor:
        return heads.repeat_interleave(self._attention.num_key_value_groups, dim=0)


def _additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)
