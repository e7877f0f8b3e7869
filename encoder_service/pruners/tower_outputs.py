"""Outputs of the vision tower that a pruner may read besides the hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = [
    "ALL_OUTPUTS",
    "CLS_HIDDEN",
    "JOINT_FEATURES",
    "KEYS",
    "MEAN_KEYS_SECOND_LAST",
    "SALIENCY_FIRST",
    "SALIENCY_LAST",
    "SALIENCY_ONE_HEAD",
    "SALIENCY_SECOND_LAST",
    "VARIANTS",
    "OutputKind",
    "TowerOutput",
]

VARIANTS: Final = ("qqv", "qkv", "kkv", "vvv")
"""Attention variants: the projections used as query, key and value (arXiv 2604.11240, table 4b)."""


class OutputKind(StrEnum):
    """Kind of an output, with its shape for N patches, hidden size C, joint space of D channels, head dimension d."""

    JOINT = "joint"
    """[1 + N, D]: attention output, CLS first, through post_layernorm and visual_projection."""
    ATTENTION = "attention"
    """[N, C]: attention output of the patches, before the norm."""
    KEYS = "keys"
    """[N, C]: attention keys, heads side by side."""
    MEAN_KEYS = "mean_keys"
    """[N, d]: attention keys, mean over the heads."""
    SALIENCY = "saliency"
    """[N]: attention of CLS to each patch, mean over the heads."""
    SALIENCY_ONE_HEAD = "saliency_one_head"
    """[N]: attention of CLS to each patch, all heads taken as one head of width C."""
    CLS_HIDDEN = "cls_hidden"
    """[C]: hidden state of CLS in X[V-1], from which the language model reads the patches."""


@dataclass(frozen=True, slots=True, order=True)
class TowerOutput:
    """One output of one layer of a vision tower of V layers.

    A tower without CLS documents what replaces it.

    Attributes:
        kind: quantity and shape.
        layer: number of the layer: -1 is layer V-1, whose input X[V-1] is what the language model reads; -2 is layer
            V-2; 0 is the first.
        qkv: attention variant of JOINT and ATTENTION; "" for the JOINT output of the whole layer.
    """

    kind: OutputKind
    layer: int = -1
    qkv: str = ""

    @property
    def has_cls(self) -> bool:
        """Whether the first vector is that of CLS, before the patches."""
        return self.kind is OutputKind.JOINT

    def __str__(self) -> str:
        variant = f"_{self.qkv or 'vanilla'}" if self.kind in (OutputKind.JOINT, OutputKind.ATTENTION) else ""
        return f"{self.kind}{variant}{ {0: '_first', -2: '_second_last'}.get(self.layer, '') }"


KEYS: Final = TowerOutput(OutputKind.KEYS)
MEAN_KEYS_SECOND_LAST: Final = TowerOutput(OutputKind.MEAN_KEYS, layer=-2)
SALIENCY_LAST: Final = TowerOutput(OutputKind.SALIENCY)
SALIENCY_SECOND_LAST: Final = TowerOutput(OutputKind.SALIENCY, layer=-2)
SALIENCY_FIRST: Final = TowerOutput(OutputKind.SALIENCY, layer=0)
SALIENCY_ONE_HEAD: Final = TowerOutput(OutputKind.SALIENCY_ONE_HEAD)
CLS_HIDDEN: Final = TowerOutput(OutputKind.CLS_HIDDEN)
JOINT_FEATURES: Final = TowerOutput(OutputKind.JOINT, layer=-2)
"""What the language model reads, in the joint space: in CLIP's towers X[V-1], the output of layer V-2."""

ALL_OUTPUTS: Final = frozenset(
    {
        *(
            TowerOutput(kind, layer, variant)
            for kind in (OutputKind.JOINT, OutputKind.ATTENTION)
            for layer in (-1, -2)
            for variant in VARIANTS
        ),
        *(TowerOutput(OutputKind.JOINT, layer) for layer in (-1, -2)),
        KEYS,
        MEAN_KEYS_SECOND_LAST,
        SALIENCY_LAST,
        SALIENCY_SECOND_LAST,
        SALIENCY_FIRST,
        SALIENCY_ONE_HEAD,
        CLS_HIDDEN,
    }
)
"""Every output that a CLIP tower computes."""
