"""Tower outputs of the families of Qwen by loops and whole attention maps, from the hidden states of the unsplit tower.

The towers are those of the tiny checkpoints: 4 heads of width 16.
"""

from __future__ import annotations

from typing import Any

import torch

from encoder_service.pruners.tower_outputs import JOINT_FEATURES, KEYS, SALIENCY_LAST, OutputKind, TowerOutput

__all__ = ["PlainOutputs"]


class PlainOutputs:
    """All outputs of one image on a grid of `rows` x `columns` visual tokens."""

    def __init__(self, unsplit: Any, patches: torch.Tensor, rows: int, columns: int) -> None:
        self.tower = unsplit.model.visual
        with torch.inference_mode():
            self.states = self.tower(
                patches, grid_thw=torch.tensor([[1, 2 * rows, 2 * columns]]), output_hidden_states=True
            ).hidden_states
        positions = [
            (2 * row + down, 2 * column + right)
            for row in range(rows)
            for column in range(columns)
            for down in range(2)
            for right in range(2)
        ]
        frequencies = 10000.0 ** (-torch.arange(4) / 4)
        self.angles = (torch.tensor(positions)[:, :, None] * frequencies).flatten(1)  # [S, 8]

    def heads(self, layer: int) -> dict[str, torch.Tensor]:
        block = self.tower.blocks[layer]
        qkv = block.attn.qkv(block.norm1(self.states[layer if layer >= 0 else layer - 1]))
        query, key, value = (part.unflatten(-1, (4, 16)).transpose(0, 1) for part in qkv.split(64, dim=-1))
        return {"q": self.rotated(query), "k": self.rotated(key), "v": value, "bare_k": key}

    def rotated(self, vectors: torch.Tensor) -> torch.Tensor:
        first, second = vectors[..., :8], vectors[..., 8:]
        cos, sin = self.angles.cos(), self.angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def attention(self, variant: str) -> torch.Tensor:
        heads = self.heads(-1)
        query, key, value = (heads[letter] for letter in variant)
        mixed = (query @ key.mT / 4).softmax(-1) @ value
        return self.tower.blocks[-1].attn.proj(mixed.transpose(0, 1).flatten(1))

    def joint(self, vectors: torch.Tensor) -> torch.Tensor:
        merged = self.tower.merger(vectors)
        return torch.cat([merged.mean(0, keepdim=True), merged])

    def saliency(self, layer: int, window_of: torch.Tensor | None = None) -> torch.Tensor:
        """Attention received in a layer, inside windows if those of the patches [S] are given."""
        heads = self.heads(layer)
        scores = heads["q"] @ heads["k"].mT / 4
        if window_of is not None:
            scores = scores.masked_fill(window_of[:, None] != window_of, -torch.inf)
        return scores.softmax(-1).mean(dim=(0, 1)).view(-1, 4).mean(1)

    def outputs_of_last(self) -> dict[TowerOutput, torch.Tensor]:
        """All outputs but the saliency of other layers."""
        outputs = {
            KEYS: self.heads(-1)["bare_k"].transpose(0, 1).flatten(1).unflatten(0, (-1, 4)).flatten(1),
            SALIENCY_LAST: self.saliency(-1),
            TowerOutput(OutputKind.JOINT): self.joint(self.states[-1]),
            JOINT_FEATURES: self.joint(self.states[-1]),
        }
        for variant in ("qqv", "qkv", "kkv", "vvv"):
            output = self.attention(variant)
            outputs[TowerOutput(OutputKind.JOINT, qkv=variant)] = self.joint(output)
            outputs[TowerOutput(OutputKind.ATTENTION, qkv=variant)] = output.unflatten(0, (-1, 4)).flatten(1)
        return outputs
