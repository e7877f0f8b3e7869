"""What a pruner is: a pure function from the features of one picture (and a question) to fewer features.

A pruner knows tensors alone. It declares what it must see of the towers (`Needs`); the service computes exactly that,
so that a pruner with cheap needs costs nothing extra and two pruners live in one process without patching a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from encoder_service.pruners.in_tower import InTowerPruner
from fovea.parameters import Parameter, declared, parse

__all__ = [
    "Needs",
    "PrunedTokens",
    "Pruner",
    "PrunerInput",
    "Row",
    "TextFeatures",
    "View",
    "VisionFeatures",
    "at_least_float32",
]

P = TypeVar("P")


class View(StrEnum):
    """What a pruner can see of the vision tower beyond the hidden states. V layers of width C, N patches, row 0 CLS.

    "Last" is layer V-1, applied to X[V-1], which is also what the language model reads. The three letters name what
    stands for query, key and value in its attention.
    """

    JOINT_QQV = "joint_qqv"  # [1 + N, D]: attention output through post_layernorm and visual_projection
    JOINT_QKV = "joint_qkv"
    JOINT_KKV = "joint_kkv"
    JOINT_VVV = "joint_vvv"
    JOINT_VANILLA = "joint_vanilla"  # [1 + N, D]: output of the whole last layer, X[V], projected likewise
    ATTENTION_QQV = "attention_qqv"  # [N, C]: attention output of the patches before the norm
    ATTENTION_QKV = "attention_qkv"
    ATTENTION_KKV = "attention_kkv"
    ATTENTION_VVV = "attention_vvv"
    KEYS = "keys"  # [N, C]: keys of the last layer, heads side by side
    SALIENCY_LAST = "saliency_last"  # [N]: attention of CLS to each patch, mean over the heads
    SALIENCY_SECOND_LAST = "saliency_second_last"  # the same of layer V-2
    SALIENCY_FIRST = "saliency_first"  # the same of layer 0
    SALIENCY_ONE_HEAD = (
        "saliency_one_head"  # [N]: attention of CLS in the last layer, all heads taken as one of width C
    )
    MEAN_KEYS_SECOND_LAST = "mean_keys_second_last"  # [N, d]: keys of layer V-2, mean over the heads of width d
    CLS_HIDDEN = "cls_hidden"  # [C]: the CLS row of X[V-1]


class Row(IntEnum):
    """What stands in `PrunedTokens.kept_index` for a row that is not one patch."""

    CLS = -1
    SUM = -2  # a weighted sum over many patches
    ZERO = -3  # a row of zeros


@dataclass(frozen=True, slots=True)
class Needs:
    """What a pruner must be given.

    Attributes:
        views: Of the vision tower.
        text: The question.
        eos_attention: Attention inside the question.
        in_tower: For a pruner that works inside the tower: from K to what goes in there. Such a tower offers no views.
    """

    views: frozenset[View] = frozenset()
    text: bool = False
    eos_attention: bool = False
    in_tower: Callable[[int], InTowerPruner] | None = None


@dataclass(frozen=True, slots=True)
class VisionFeatures:
    """One picture after the vision tower.

    Attributes:
        hidden: [N, C], the patches of X[V-1] in raster order, without CLS. [n, C] where n were left inside the tower.
        grid: Rows and columns, N = rows * columns.
        views: The views that were asked for, perhaps more.
        survivors: [n], int64, the patches left inside the tower, ascending; None where it ran whole.
    """

    hidden: Tensor
    grid: tuple[int, int]
    views: Mapping[View, Tensor]
    survivors: Tensor | None = None

    @property
    def num_patches(self) -> int:
        """N, whatever is left of them."""
        return self.grid[0] * self.grid[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (self.hidden, *self.views.values(), *(() if self.survivors is None else (self.survivors,)))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """One question after the text tower; a text longer than the tower was read in W windows.

    Attributes:
        tokens: [T, D], every position of every window (BOS, words, EOS) in the joint space, not normalised.
        eos: [W, D], the EOS row of each window.
        is_word: [T], False for BOS and EOS.
        eos_attention: [T], attention of the window's EOS to each position in the last text layer, mean over the heads;
            None unless needed.
    """

    tokens: Tensor
    eos: Tensor
    is_word: Tensor
    eos_attention: Tensor | None = None


@dataclass(frozen=True, slots=True)
class PrunerInput:
    """What a pruner works on.

    Attributes:
        vision: The picture.
        text: The question; None where there is none or the pruner reads no text.
        keep: K, tokens to keep, 1 <= K <= N.
        seed: Derived from the picture, so that chance falls the same way on the same picture.
    """

    vision: VisionFeatures
    keep: int
    text: TextFeatures | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class PrunedTokens:
    """What is left of a picture: K rows, or what the pruner's documentation says where it does not go by the budget.

    Attributes:
        features: [K, C], at least float32, in the order in which the method emits them; so the language model reads
            them.
        kept_index: [K], int64, the patch that each row stands for, in any order; a `Row` where it is not one patch.
            `with_places` gives such rows a patch to travel with.
        merged_into: [N], int64, for each patch the row of `features` that it is or was merged into; -1: dropped.
        task_map: [N], relevance to the question, None where the pruner has no such score.
        saliency_map: [N], attention of CLS, likewise.
    """

    features: Tensor
    kept_index: Tensor
    merged_into: Tensor
    task_map: Tensor | None = None
    saliency_map: Tensor | None = None

    @classmethod
    def all_of(cls, vision: VisionFeatures) -> PrunedTokens:
        """Every patch as it is."""
        index = torch.arange(len(vision.hidden), device=vision.hidden.device)
        return cls(at_least_float32(vision.hidden), index, index.clone())

    @classmethod
    def some_of(cls, vision: VisionFeatures, kept_index: Tensor, *, saliency_map: Tensor | None = None) -> PrunedTokens:
        """The patches of `kept_index` in its order, as they are; the others leave no trace."""
        owner = torch.full_like(vision.hidden[:, 0], -1, dtype=torch.int64)
        owner[kept_index] = torch.arange(len(kept_index), device=owner.device)
        return cls(at_least_float32(vision.hidden[kept_index]), kept_index, owner, saliency_map=saliency_map)


@dataclass(frozen=True, slots=True)
class Pruner(Generic[P]):
    """A pruning method.

    Attributes:
        name: As users write it.
        summary: One sentence.
        reference: Paper, or "" for a baseline.
        reads_text: Its choice depends on the question.
        parameters: Dataclass of parameters (see `parameters`).
        needs: What it must see, given its parameters.
        prune: The method itself. Pure; never changes its inputs.
        choose_keep: K for this picture and question, where a client leaves it to the pruner; `keep` of its input is N.
            None for a pruner that cannot say.
    """

    name: str
    summary: str
    parameters: type[P]
    needs: Callable[[P], Needs]
    prune: Callable[[PrunerInput, P], PrunedTokens]
    reference: str = ""
    reads_text: bool = field(default=False)
    choose_keep: Callable[[PrunerInput, P], int] | None = None

    def describe(self) -> tuple[Parameter, ...]:
        """The parameters as clients see them."""
        return declared(self.parameters)

    def bind(self, values: Mapping[str, object]) -> BoundPruner:
        """This pruner with the parameters that a client sent.

        Raises:
            InvalidParameter: See `parameters.parse`.
        """
        params: Any = parse(self.parameters, values)
        choose = self.choose_keep
        return BoundPruner(
            self.name,
            self.needs(params),
            lambda job: self.prune(job, params),
            None if choose is None else lambda job: choose(job, params),
        )


@dataclass(frozen=True, slots=True)
class BoundPruner:
    """A pruner whose parameters are settled."""

    name: str
    needs: Needs
    prune: Callable[[PrunerInput], PrunedTokens]
    choose_keep: Callable[[PrunerInput], int] | None = None


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half-precision inputs as float32; scores and means are never taken in less. float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
