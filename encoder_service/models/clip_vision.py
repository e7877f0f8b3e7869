"""CLIP's vision tower, run as far as a pruner looks and no further."""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPVisionModel

from encoder_service.pruners.base import View, VisionFeatures

__all__ = ["ClipVisionTower"]

# The letters of a variant: what stands for query, key and value (arXiv 2604.11240, table 4b).
_VARIANTS = ("qqv", "qkv", "kkv", "vvv")


class ClipVisionTower(nn.Module):
    """X[V-1] of a V-layer tower, and of the last layer only the views asked for.

    The language model reads X[V-1] (LLaVA's "layer -2"), so the last layer exists for the pruner alone: never its FFN
    unless the vanilla view is wanted, never a full attention map.

    Args:
        vision_model: transformers' own tower; its layers run with the attention implementation of its config.
        visual_projection: [D, C] to the joint space, no bias.
    """

    def __init__(self, vision_model: CLIPVisionModel, visual_projection: nn.Linear) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.visual_projection = visual_projection

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        config = self.vision_model.config
        side = config.image_size // config.patch_size
        return side, side

    @torch.inference_mode()
    def forward(self, pixel_values: Tensor, views: Set[View]) -> list[VisionFeatures]:
        """Pixel values [B, 3, H, W] to the features of B pictures."""
        model = self.vision_model
        hidden = model.pre_layrnorm(model.embeddings(pixel_values))
        second_last = hidden
        for layer in model.encoder.layers[:-1]:
            second_last = hidden
            hidden = layer(hidden, None)
        computed = self._views(hidden, second_last, views)
        return [
            # Copies: a row of a batch would keep the whole batch alive in the cache.
            VisionFeatures(hidden[i, 1:].clone(), self.grid, {view: rows[i].clone() for view, rows in computed.items()})
            for i in range(len(hidden))
        ]

    def _views(self, hidden: Tensor, second_last: Tensor, views: Set[View]) -> dict[View, Tensor]:
        """The views of X[V-1] `hidden` and X[V-2] `second_last`, both [B, 1 + N, C]; each [B, ...]."""
        layer = self.vision_model.encoder.layers[-1]
        normed = layer.layer_norm1(hidden)
        computed: dict[View, Tensor] = {}
        if View.SALIENCY_LAST in views:
            computed[View.SALIENCY_LAST] = cls_attention(layer, normed)
        if View.SALIENCY_SECOND_LAST in views:
            before = self.vision_model.encoder.layers[-2]
            computed[View.SALIENCY_SECOND_LAST] = cls_attention(before, before.layer_norm1(second_last))
        if View.KEYS in views:
            computed[View.KEYS] = layer.self_attn.k_proj(normed)[:, 1:]
        for variant in _VARIANTS:
            joint, attention = View(f"joint_{variant}"), View(f"attention_{variant}")
            if joint in views or attention in views:
                output = decoupled_attention(layer, normed, variant)
                if joint in views:
                    computed[joint] = self._to_joint_space(output)
                if attention in views:
                    computed[attention] = output[:, 1:]
        if View.JOINT_VANILLA in views:
            computed[View.JOINT_VANILLA] = self._to_joint_space(layer(hidden, None))
        return computed

    def _to_joint_space(self, rows: Tensor) -> Tensor:
        projected: Tensor = self.visual_projection(self.vision_model.post_layernorm(rows))
        return projected


def _heads(rows: Tensor, head_dim: int) -> Tensor:
    """[B, S, C] to [B, H, S, d]."""
    split: Tensor = rows.unflatten(-1, (-1, head_dim))
    return split.transpose(1, 2)


def decoupled_attention(layer: CLIPEncoderLayer, normed: Tensor, variant: str) -> Tensor:
    """OutProj(softmax(A B^T / sqrt(d)) C) for the variant's letters ABC; no residual, no FFN (eq. 2 for qqv).

    Args:
        layer: An encoder layer.
        normed: LN1 of what enters it, [B, 1 + N, C].
        variant: Three of the letters q, k, v.

    Returns:
        [B, 1 + N, C].
    """
    attn = layer.self_attn
    source = {"q": attn.q_proj, "k": attn.k_proj, "v": attn.v_proj}
    heads = {letter: _heads(source[letter](normed), attn.head_dim) for letter in set(variant)}
    query, key, value = (heads[letter] for letter in variant)
    mixed = nn.functional.scaled_dot_product_attention(query, key, value)
    output: Tensor = attn.out_proj(mixed.transpose(1, 2).flatten(2))
    return output


def cls_attention(layer: CLIPEncoderLayer, normed: Tensor) -> Tensor:
    """Row of CLS in the layer's ordinary attention, mean over the heads, CLS column dropped and not renormalised.

    Args:
        layer: An encoder layer.
        normed: LN1 of what enters it, [B, 1 + N, C].

    Returns:
        [B, N], at least float32 (eq. 4).
    """
    attn = layer.self_attn
    query = _heads(attn.q_proj(normed[:, :1]), attn.head_dim)
    key = _heads(attn.k_proj(normed), attn.head_dim)
    scores = (query @ key.transpose(-1, -2)) * attn.head_dim**-0.5
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    weights: Tensor = scores.softmax(dim=-1).mean(dim=1)[:, 0, 1:]
    return weights
