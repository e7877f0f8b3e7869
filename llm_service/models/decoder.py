"""The layers of a Llama one at a time, and what a pruner may see between two of them.

`LlamaModel.forward` runs all layers over one sequence with one cache length. Pruning needs the loop in our own hands;
the layers themselves, their attention kernel and their cache are those of transformers, unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

__all__ = ["AttentionView", "LayeredDecoder", "supports_layers"]

# Families whose layers are projections q_proj, k_proj, v_proj and a rotation of whole heads, and nothing else.
_MODEL_TYPES: Final = frozenset({"llama"})

Rotary = tuple[Tensor, Tensor]


def supports_layers(causal_lm: Any) -> bool:
    """Whether a language model can be run layer by layer here."""
    return causal_lm.config.model_type in _MODEL_TYPES


class LayeredDecoder:
    """A causal language model of transformers, taken apart. B rows of T tokens of width D; L layers."""

    def __init__(self, causal_lm: Any) -> None:
        self._causal_lm = causal_lm
        self._model = causal_lm.model
        self.num_layers: int = len(self._model.layers)
        self._attn_implementation: str = causal_lm.config._attn_implementation

    def embed(self, token_ids: Tensor) -> Tensor:
        """[..., D] of int64 ids [...]."""
        embedded: Tensor = self._model.embed_tokens(token_ids)
        return embedded

    def rotary(self, position_ids: Tensor) -> Rotary:
        """Cosines and sines [B, T, d] of positions [B, T], in the dtype of the weights."""
        tables: Rotary = self._model.rotary_emb(self._model.norm.weight, position_ids)
        return tables

    def layer(self, index: int, hidden: Tensor, rotary: Rotary, mask: Tensor | None, cache: DynamicCache) -> Tensor:
        """One layer over `hidden` [B, T, D], which appends its keys and values to the cache."""
        output: Tensor = self._model.layers[index](
            hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=cache, use_cache=True
        )
        return output

    def norm(self, hidden: Tensor) -> Tensor:
        """The norm after the last layer."""
        normed: Tensor = self._model.norm(hidden)
        return normed

    def logits(self, normed: Tensor) -> Tensor:
        """[..., V] float32 of normed states [..., D]."""
        logits: Tensor = self._causal_lm.lm_head(normed)
        return logits.float()

    def causal_mask(self, length: int) -> Tensor | None:
        """What a prefill of one row without padding needs: nothing, but for the eager kernel, which masks nothing
        itself."""
        if self._attn_implementation != "eager":
            return None
        weight = self._model.norm.weight
        ones = torch.ones(length, length, dtype=torch.bool, device=weight.device)
        return _additive(ones.tril(), weight.dtype)[None, None]

    def padding_mask(self, lengths: Sequence[int]) -> Tensor | None:
        """What decoding one token needs where row b has lengths[b] real positions, padded on the left.

        Returns:
            A mask in the form that the attention kernel takes; None where no row is padded.
        """
        longest = max(lengths)
        if min(lengths) == longest:
            return None
        weight = self._model.norm.weight
        padding = longest - torch.tensor(lengths, device=weight.device)
        real = torch.arange(longest, device=weight.device) >= padding[:, None]
        if self._attn_implementation.startswith("flash"):
            return real
        return _additive(real, weight.dtype)[:, None, None]

    def view(self, index: int, hidden: Tensor, rotary: Rotary, cache: DynamicCache | None = None) -> AttentionView:
        """The attention of layer `index` on `hidden` [T, D]; with a cache, its keys and values are read from there."""
        layer = self._model.layers[index]
        cached = None if cache is None else (cache.layers[index].keys[0], cache.layers[index].values[0])
        return AttentionView(layer.self_attn, layer.input_layernorm, hidden, (rotary[0][0], rotary[1][0]), cached)


class AttentionView:
    """A `pruners.base.LayerView` that computes what is asked for and nothing else."""

    def __init__(
        self, attention: Any, norm: Any, hidden: Tensor, rotary: Rotary, cached: tuple[Tensor, Tensor] | None
    ) -> None:
        self._attention = attention
        self._norm = norm
        self._hidden = hidden
        self._cached = cached
        self.rotary = rotary

    def queries(self, places: Tensor) -> Tensor:
        """[H, R, d] of R places."""
        cos, sin = (table[places] for table in self.rotary)
        return self._rotated(self._attention.q_proj(self._norm(self._hidden[places])), cos, sin)

    def keys(self) -> Tensor:
        """[H, T, d]"""
        if self._cached is None:
            return self._grouped(self._rotated(self._attention.k_proj(self._norm(self._hidden)), *self.rotary))
        return self._grouped(self._cached[0])

    def values(self) -> Tensor:
        """[H, T, d]"""
        if self._cached is None:
            return self._grouped(self._heads(self._attention.v_proj(self._norm(self._hidden))))
        return self._grouped(self._cached[1])

    def raw_keys(self, places: Tensor) -> Tensor:
        """[R, C], from the hidden states as they are."""
        keys: Tensor = self._attention.k_proj(self._hidden[places])
        return keys

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.view(len(projected), -1, self._attention.head_dim).transpose(0, 1)

    def _rotated(self, projected: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        heads = self._heads(projected)[None]
        rotated: Tensor = apply_rotary_pos_emb(heads, heads, cos[None], sin[None])[0]
        return rotated[0]

    def _grouped(self, heads: Tensor) -> Tensor:
        return heads.repeat_interleave(self._attention.num_key_value_groups, dim=0)


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)
