"""Multiply-adds of the parts of a vision-language model, each counted once, without biases, norms, softmaxes and
activations. The formulas of the language model are those of DeSAP's appendix (arXiv 2604.11240, eq. 6).

n is a number of tokens, d a width, m the width inside an FFN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Decoder", "TextTower", "VisionTower", "fcma", "merging", "projector"]


@dataclass(frozen=True, slots=True)
class Decoder:
    """A language model of LLaMA's architecture, with a gated FFN. The defaults are those of Vicuna-7B.

    Attributes:
        hidden_size: Hidden size d.
        intermediate_size: Width m inside the FFN.
        num_layers: Number of layers L.
        key_value_size: Width kv of keys and of values: d, or less where heads share them.
    """

    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_layers: int = 32
    key_value_size: int = 4096

    @classmethod
    def of(cls, config: Any) -> Decoder:
        """The shape in transformers' configuration of a language model."""
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        key_value_heads = getattr(config, "num_key_value_heads", None) or heads
        return cls(config.hidden_size, config.intermediate_size, config.num_hidden_layers, key_value_heads * width)

    def layer(self, tokens: int) -> int:
        """One layer: 2 n d^2 + 2 n d kv + 2 n^2 d + 3 n d m; with kv = d the 4 n d^2 + 2 n^2 d + 3 n d m of eq. 6."""
        d = self.hidden_size
        projections = 2 * tokens * d * (d + self.key_value_size)
        return projections + 2 * tokens**2 * d + 3 * tokens * d * self.intermediate_size

    def prefill(self, tokens_by_layer: Sequence[int]) -> int:
        """All layers, from the number of visual tokens in each."""
        return sum(map(self.layer, tokens_by_layer))


@dataclass(frozen=True, slots=True)
class _ClipTower:
    """The common part of CLIP's two towers: pre-norm layers with a plain FFN."""

    hidden_size: int
    intermediate_size: int
    num_layers: int

    def _attention(self, tokens: int) -> int:
        return 4 * tokens * self.hidden_size**2 + 2 * tokens**2 * self.hidden_size

    def ffn(self, tokens: int) -> int:
        """The FFN of one layer: 2 n d m."""
        return 2 * tokens * self.hidden_size * self.intermediate_size

    def layer(self, tokens: int) -> int:
        """One layer: 4 n d^2 + 2 n^2 d + 2 n d m."""
        return self._attention(tokens) + self.ffn(tokens)


@dataclass(frozen=True, slots=True)
class VisionTower(_ClipTower):
    """CLIP's vision tower. The defaults are those of ViT-L/14 at 336 pixels: N = 576 patches and CLS."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_layers: int = 24
    image_size: int = 336
    patch_size: int = 14

    @classmethod
    def of(cls, config: Any) -> VisionTower:
        """The shape in transformers' configuration of the tower."""
        return cls(
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            config.image_size,
            config.patch_size,
        )

    @property
    def num_patches(self) -> int:
        """The number of patches N."""
        side: int = self.image_size // self.patch_size
        return side**2

    @property
    def _positions(self) -> int:
        return 1 + self.num_patches

    def up_to_the_last_layer(self) -> int:
        """Patch embedding and all layers but the last, up to X[V-1], which LLaVA reads."""
        embedding = self.num_patches * 3 * self.patch_size**2 * self.hidden_size
        return embedding + (self.num_layers - 1) * self.layer(self._positions)

    def last_layer(self) -> int:
        """The whole last layer, which transformers runs for LLaVA although nothing reads it."""
        return self.layer(self._positions)

    def last_ffn(self) -> int:
        """The last layer's FFN, part of `last_layer`."""
        return self.ffn(self._positions)

    def decoupled_branch(self) -> int:
        """The q-q attention of the last layer: query, value and output projections, scores, product with values."""
        return 3 * self._positions * self.hidden_size**2 + 2 * self._positions**2 * self.hidden_size

    def joint_projection(self, joint_size: int) -> int:
        """The projection of all positions into CLIP's joint space."""
        return self._positions * self.hidden_size * joint_size

    def cls_attention(self) -> int:
        """The attention of CLS to all positions: all keys, one query, its scores."""
        return (1 + self._positions) * self.hidden_size**2 + self._positions * self.hidden_size


@dataclass(frozen=True, slots=True)
class TextTower(_ClipTower):
    """CLIP's text tower. The defaults are those of ViT-L/14."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_layers: int = 12
    joint_size: int = 768

    @classmethod
    def of(cls, config: Any) -> TextTower:
        """The shape in transformers' configuration of a whole CLIP."""
        text = config.text_config
        return cls(text.hidden_size, text.intermediate_size, text.num_hidden_layers, config.projection_dim)

    def whole(self, tokens: int) -> int:
        """All layers on a text of `tokens`, BOS and EOS included, and its projection into the joint space."""
        return self.num_layers * self.layer(tokens) + tokens * self.hidden_size * self.joint_size


def fcma(patches: int, words: int, joint_size: int) -> int:
    """m, alpha and beta of eq. 3: (N T + N + T) D. Only here the paper counts additions apart."""
    return (patches * words + patches + words) * joint_size


def merging(patches: int, kept: int, width: int) -> int:
    """Merging: similarity of all patches to the kept ones, and the means as a product with the membership matrix."""
    return 2 * patches * kept * width


def projector(tokens: int, vision_width: int, width: int) -> int:
    """The projector of LLaVA-1.5: two linear layers."""
    return tokens * (vision_width * width + width**2)
