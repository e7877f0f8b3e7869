"""CLIP's vision tower, run only as far as the requested outputs need it."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPVisionModel

from encoder_service.pruners.base import TowerFeatures
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import (
    CLS_HIDDEN,
    KEYS,
    MEAN_KEYS_SECOND_LAST,
    SALIENCY_FIRST,
    SALIENCY_LAST,
    SALIENCY_ONE_HEAD,
    SALIENCY_SECOND_LAST,
    VARIANTS,
    OutputKind,
    TowerOutput,
)
from fovea.modeling.numerics import at_least_float32

__all__ = ["ClipVisionTower", "Replay"]

Replay: TypeAlias = Callable[..., tuple[Tensor, ...] | None]
"""Outputs of a function of tensors from a captured graph; None for a batch that no graph holds."""


class ClipVisionTower(nn.Module):
    """CLIP's vision tower of V layers, which computes X[V-1] and only the requested outputs of the last layer.

    The language model reads X[V-1] (LLaVA's "layer -2"), so the last layer is computed only for pruners. Its FFN is
    computed only for the output JOINT of the whole layer. A full attention map is never computed.

    Args:
        vision_model: transformers' own tower; its layers run with the attention implementation of its config.
        visual_projection: Projection to the joint space, [D, C], without bias.
    """

    def __init__(self, vision_model: CLIPVisionModel, visual_projection: nn.Linear) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.visual_projection = visual_projection
        self.graphs: dict[frozenset[TowerOutput], Replay] = {}
        """Replays of `compute`, by its outputs."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        config = self.vision_model.config
        side = config.image_size // config.patch_size
        return side, side

    def compile_layers(self, backend: str = "inductor") -> None:
        """Lets torch compile each layer in its first calls, for batches of any size."""
        for layer in self.vision_model.encoder.layers:
            layer.compile(backend=backend, dynamic=True)

    @torch.inference_mode()
    def forward(
        self, pixel_values: Tensor, outputs: Set[TowerOutput], in_tower: InTowerPruner | None = None
    ) -> TowerFeatures:
        """Features of B tower inputs.

        Args:
            pixel_values: [B, 3, H, W], as the checkpoint's processor makes them.
            outputs: Outputs to compute besides X[V-1].
            in_tower: Pruner that may drop patches after each layer. Each tower input is then computed by itself,
                because each keeps another number of patches between the layers.

        Raises:
            ValueError: Outputs are requested of a tower that is pruned inside.
        """
        if in_tower is None:
            return self._whole(pixel_values, outputs)
        if outputs:
            names = ", ".join(map(str, sorted(outputs)))
            raise ValueError(f"a tower that is pruned inside offers no outputs, {names} were requested")
        hidden, kept = zip(
            *(self._pruned(pixel_values[i : i + 1], in_tower) for i in range(len(pixel_values))), strict=True
        )
        return TowerFeatures(torch.cat(hidden), self.grid, {}, torch.stack(kept))

    def _embed(self, pixel_values: Tensor) -> Tensor:
        """X[0], [B, 1 + N, C]."""
        hidden: Tensor = self.vision_model.pre_layrnorm(self.vision_model.embeddings(pixel_values))
        return hidden

    def _whole(self, pixel_values: Tensor, outputs: Set[TowerOutput]) -> TowerFeatures:
        in_order = sorted(outputs)
        replay = self.graphs.get(frozenset(outputs))
        replayed = None if replay is None else replay(pixel_values)
        hidden, *values = self.compute(pixel_values, in_order) if replayed is None else replayed
        return TowerFeatures(hidden, self.grid, dict(zip(in_order, values, strict=True)))

    def compute(self, pixel_values: Tensor, outputs: Sequence[TowerOutput]) -> tuple[Tensor, ...]:
        """Patches of X[V-1] [B, N, C], then each of `outputs` [B, ...]; without a replay, and without a read."""
        first = second_last = hidden = self._embed(pixel_values)
        for layer in self.vision_model.encoder.layers[:-1]:
            second_last = hidden
            hidden = layer(hidden, None)
        computed = self._outputs(hidden, second_last, first, frozenset(outputs))
        return hidden[:, 1:], *(computed[output] for output in outputs)

    def _pruned(self, pixel_values: Tensor, in_tower: InTowerPruner) -> tuple[Tensor, Tensor]:
        """Features [1, n, C] of one tower input [1, 3, H, W], with patches dropped between layers, and those kept."""
        hidden = self._embed(pixel_values)
        kept_in_tower = torch.arange(hidden.shape[1] - 1, device=hidden.device)
        hook, layers = in_tower.new_hook(), self.vision_model.encoder.layers
        for index, layer in enumerate(layers[:-1]):
            before, hidden = hidden, layer(hidden, None)
            kept = hook.after_layer(_ObservedLayer(layer, before, index, len(layers)))
            if kept is not None:
                kept_in_tower = kept_in_tower[kept]
                hidden = torch.cat([hidden[:, :1], hidden[:, 1:][:, kept]], dim=1)
        return hidden[:, 1:], kept_in_tower

    def _outputs(
        self, hidden: Tensor, second_last: Tensor, first: Tensor, outputs: Set[TowerOutput]
    ) -> dict[TowerOutput, Tensor]:
        """Outputs, each [B, ...], from X[V-1] `hidden`, X[V-2] `second_last` and X[0] `first`, all [B, 1 + N, C]."""
        layer = self.vision_model.encoder.layers[-1]
        normed = layer.layer_norm1(hidden)
        computed: dict[TowerOutput, Tensor] = {}
        if SALIENCY_LAST in outputs:
            computed[SALIENCY_LAST] = cls_attention(layer, normed).mean(dim=1)
        if SALIENCY_ONE_HEAD in outputs:
            computed[SALIENCY_ONE_HEAD] = cls_attention(layer, normed, head_dim=normed.shape[-1])[:, 0]
        computed |= self._outputs_of_earlier_layers(second_last, first, outputs)
        if CLS_HIDDEN in outputs:
            computed[CLS_HIDDEN] = hidden[:, 0]
        if KEYS in outputs:
            computed[KEYS] = layer.self_attn.k_proj(normed)[:, 1:]
        computed |= self._decoupled_outputs(layer, normed, outputs, -1)
        if TowerOutput(OutputKind.JOINT) in outputs:
            computed[TowerOutput(OutputKind.JOINT)] = self._to_joint_space(layer(hidden, None))
        if TowerOutput(OutputKind.JOINT, layer=-2) in outputs:
            computed[TowerOutput(OutputKind.JOINT, layer=-2)] = self._to_joint_space(hidden)
        return computed

    def _decoupled_outputs(
        self, layer: CLIPEncoderLayer, normed: Tensor, outputs: Set[TowerOutput], number: int
    ) -> dict[TowerOutput, Tensor]:
        """Decoupled attention of layer `number` on LN1 of its input."""
        computed: dict[TowerOutput, Tensor] = {}
        for variant in VARIANTS:
            joint, attention = (TowerOutput(kind, number, variant) for kind in (OutputKind.JOINT, OutputKind.ATTENTION))
            if joint in outputs or attention in outputs:
                output = decoupled_attention(layer, normed, variant)
                if joint in outputs:
                    computed[joint] = self._to_joint_space(output)
                if attention in outputs:
                    computed[attention] = output[:, 1:]
        return computed

    def _outputs_of_earlier_layers(
        self, second_last: Tensor, first: Tensor, outputs: Set[TowerOutput]
    ) -> dict[TowerOutput, Tensor]:
        computed: dict[TowerOutput, Tensor] = {}
        if any(output.layer == -2 for output in outputs):
            layer = self.vision_model.encoder.layers[-2]
            normed = layer.layer_norm1(second_last)
            computed |= self._decoupled_outputs(layer, normed, outputs, -2)
            if SALIENCY_SECOND_LAST in outputs:
                computed[SALIENCY_SECOND_LAST] = cls_attention(layer, normed).mean(dim=1)
            if MEAN_KEYS_SECOND_LAST in outputs:
                keys = at_least_float32(layer.self_attn.k_proj(normed)[:, 1:])
                computed[MEAN_KEYS_SECOND_LAST] = keys.unflatten(-1, (-1, layer.self_attn.head_dim)).mean(dim=2)
        if SALIENCY_FIRST in outputs:
            layer = self.vision_model.encoder.layers[0]
            computed[SALIENCY_FIRST] = cls_attention(layer, layer.layer_norm1(first)).mean(dim=1)
        return computed

    def _to_joint_space(self, hidden: Tensor) -> Tensor:
        projected: Tensor = self.visual_projection(self.vision_model.post_layernorm(hidden))
        return projected


def _heads(hidden: Tensor, head_dim: int) -> Tensor:
    """[B, S, C] to [B, H, S, d]."""
    split: Tensor = hidden.unflatten(-1, (-1, head_dim))
    return split.transpose(1, 2)


def decoupled_attention(layer: CLIPEncoderLayer, normed: Tensor, variant: str) -> Tensor:
    """OutProj(softmax(A B^T / sqrt(d)) C) for the variant's letters ABC; no residual, no FFN (DeSAP's eq. 2 for qqv).

    Args:
        layer: An encoder layer.
        normed: LN1 of its input, [B, 1 + N, C].
        variant: Three of the letters q, k, v.

    Returns:
        [B, 1 + N, C].
    """
    attn = layer.self_attn
    projections = {"q": attn.q_proj, "k": attn.k_proj, "v": attn.v_proj}
    heads = {letter: _heads(projections[letter](normed), attn.head_dim) for letter in set(variant)}
    query, key, value = (heads[letter] for letter in variant)
    mixed = nn.functional.scaled_dot_product_attention(query, key, value)
    output: Tensor = attn.out_proj(mixed.transpose(1, 2).flatten(2))
    return output


def cls_attention(layer: CLIPEncoderLayer, normed: Tensor, *, head_dim: int | None = None) -> Tensor:
    """Attention of CLS to the patches, as the layer computes it. CLS itself is left out without renormalising.

    Args:
        layer: An encoder layer.
        normed: LN1 of its input, [B, 1 + N, C].
        head_dim: Width of a head; None for the layer's own.

    Returns:
        [B, H, N], at least float32.
    """
    attn = layer.self_attn
    width = head_dim or attn.head_dim
    query = _heads(attn.q_proj(normed[:, :1]), width)
    key = _heads(attn.k_proj(normed), width)
    scores = at_least_float32((query @ key.transpose(-1, -2)) * width**-0.5)
    weights: Tensor = scores.softmax(dim=-1)[:, :, 0, 1:]
    return weights


@dataclass(frozen=True, slots=True)
class _ObservedLayer:
    """See `TowerLayer`. Attention and values are computed on demand, so a hook that reads neither costs nothing.

    Attributes:
        layer: The encoder layer that has run.
        hidden: Input of the layer, [1, 1 + n, C].
        index: Index of the layer in the tower.
        num_layers: Number V of layers.
    """

    layer: CLIPEncoderLayer
    hidden: Tensor
    index: int
    num_layers: int

    def cls_attention(self) -> Tensor:
        return cls_attention(self.layer, self.layer.layer_norm1(self.hidden))[0]

    def values(self) -> Tensor:
        attn = self.layer.self_attn
        return _heads(attn.v_proj(self.layer.layer_norm1(self.hidden)), attn.head_dim)[0]
