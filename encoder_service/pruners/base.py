"""What a pruner is: a pure function from the features of one picture (and a question) to fewer features.

A pruner knows tensors alone. It declares what it must see of the towers (`FeatureRequirements`); the service
computes exactly that. A pruner that reads little costs little, and two pruners live in one process without patching a
model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import CLS_HIDDEN, TowerOutput
from fovea.modeling.numerics import at_least_float32
from fovea.parameters import Parameter, declared, parse

__all__ = [
    "FeatureRequirements",
    "PrunedTokens",
    "Pruner",
    "PrunerInput",
    "TextFeatures",
    "TiledImage",
    "TokenOrigin",
    "TowerFeatures",
]

P = TypeVar("P")


class TokenOrigin(IntEnum):
    """What stands in `PrunedTokens.kept_index` for a row that is not one patch."""

    CLS = -1
    SUM = -2  # a weighted sum over many patches
    ZERO = -3  # a row of zeros


@dataclass(frozen=True, slots=True)
class FeatureRequirements:
    """What a pruner must be given.

    Attributes:
        views: Of the vision tower.
        tile_views: More of it where a picture is cut into tiles.
        text: The question.
        eos_attention: Attention inside the question.
        in_tower: For a pruner that works inside the tower: from K to what goes in there. Such a tower offers no views.
    """

    outputs: frozenset[TowerOutput] = frozenset()
    tile_outputs: frozenset[TowerOutput] = frozenset()
    text: bool = False
    eos_attention: bool = False
    in_tower: Callable[[int], InTowerPruner] | None = None


@dataclass(frozen=True, slots=True)
class TowerFeatures:
    """One picture after the vision tower.

    Attributes:
        hidden: [N, C], the patches of X[V-1] in raster order, without CLS. [n, C] where n were left inside the tower.
        grid: Rows and columns, N = rows * columns.
        views: The views that were asked for, perhaps more.
        survivors: [n], int64, the patches left inside the tower, ascending; None where it ran whole.
    """

    hidden: Tensor
    grid: tuple[int, int]
    outputs: Mapping[TowerOutput, Tensor]
    kept_in_tower: Tensor | None = None

    @property
    def num_patches(self) -> int:
        """N, whatever is left of them."""
        return self.grid[0] * self.grid[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (self.hidden, *self.outputs.values(), *(() if self.kept_in_tower is None else (self.kept_in_tower,)))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def take(self, patches: Tensor, grid: tuple[int, int]) -> TowerFeatures:
        """Some of the patches, [n] int64, in that order as a picture of its own, `grid` patches large.

        Of a tower that was pruned inside, those of them that are left; `patches` must then be ascending.
        """
        patches = patches.to(self.hidden.device)
        if self.kept_in_tower is not None:
            number = torch.full((self.num_patches,), -1, device=patches.device)
            number[patches] = torch.arange(len(patches), device=patches.device)
            kept_in_tower = number[self.kept_in_tower]
            return TowerFeatures(self.hidden[kept_in_tower >= 0], grid, {}, kept_in_tower[kept_in_tower >= 0])

        def taken(output_name: TowerOutput, rows: Tensor) -> Tensor:
            if output_name == CLS_HIDDEN:
                return rows
            return torch.cat([rows[:1], rows[1:][patches]]) if output_name.has_cls else rows[patches]

        return TowerFeatures(
            self.hidden[patches],
            grid,
            {output_name: taken(output_name, rows) for output_name, rows in self.outputs.items()},
        )

    @classmethod
    def joined(cls, parts: Sequence[TowerFeatures]) -> TowerFeatures:
        """The patches of several parts, one part after the other, as a grid of one row. CLS rows become their mean.

        Args:
            parts: At least one; of towers that ran whole.
        """

        def together(output_name: TowerOutput) -> Tensor:
            rows = [part.outputs[output_name] for part in parts]
            if output_name == CLS_HIDDEN:
                return torch.stack(rows).mean(dim=0)
            if not output_name.has_cls:
                return torch.cat(rows)
            return torch.cat([torch.stack([one[0] for one in rows]).mean(dim=0)[None], *(one[1:] for one in rows)])

        known = frozenset.intersection(*(frozenset(part.outputs) for part in parts))
        hidden = torch.cat([part.hidden for part in parts])
        return cls(hidden, (1, len(hidden)), {output_name: together(output_name) for output_name in sorted(known)})


@dataclass(frozen=True, slots=True)
class TiledImage:
    """A picture cut into tiles, as LLaVA-NeXT does, without its padding.

    Attributes:
        parts: The base tile (the whole picture made small), then the tiles that show some of it, row by row.
        part_at: [lines, columns] int64: which of `parts` shows each patch of the mosaic that the tiles make. Empty
            where the picture is too narrow for one patch.
    """

    parts: tuple[TowerFeatures, ...]
    tile_at: Tensor


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

    @property
    def is_bos(self) -> Tensor:
        """[T], True for the first row of each window: BOS and EOS alternate around the words."""
        outside = (~self.is_word).nonzero().squeeze(1)
        return torch.zeros_like(self.is_word).index_fill(0, outside[0::2], True)

    @property
    def is_eos(self) -> Tensor:
        """[T], True for the last row of each window."""
        return ~self.is_word & ~self.is_bos


@dataclass(frozen=True, slots=True)
class PrunerInput:
    """What a pruner works on.

    Attributes:
        vision: The picture.
        text: The question; None where there is none or the pruner reads no text.
        keep: K, tokens to keep, 1 <= K <= N.
        seed: Derived from the picture, so that chance falls the same way on the same picture.
    """

    vision: TowerFeatures
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
        reading_group: [K], int64, for rows of one tile of several: the language model reads group by group, in group 0
            line by line across the tiles, in any other tile by tile. None: all rows are in group 0. The base tile comes
            first, as it is.
    """

    features: Tensor
    origins: Tensor
    cluster_of_patch: Tensor
    task_map: Tensor | None = None
    saliency_map: Tensor | None = None
    reading_group: Tensor | None = None

    @classmethod
    def all_of(cls, vision: TowerFeatures, *, reading_group: int = 0) -> PrunedTokens:
        """Every patch as it is."""
        index = torch.arange(len(vision.hidden), device=vision.hidden.device)
        group = torch.full_like(index, reading_group)
        return cls(at_least_float32(vision.hidden), index, index.clone(), reading_group=group)

    @classmethod
    def some_of(cls, vision: TowerFeatures, origins: Tensor, *, saliency_map: Tensor | None = None) -> PrunedTokens:
        """The patches of `kept_index` in its order, as they are; the others leave no trace."""
        cluster_of_patch = torch.full_like(vision.hidden[:, 0], -1, dtype=torch.int64)
        cluster_of_patch[origins] = torch.arange(len(origins), device=cluster_of_patch.device)
        return cls(at_least_float32(vision.hidden[origins]), origins, cluster_of_patch, saliency_map=saliency_map)


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
        joins_tiles: Of a picture in tiles it sees all patches at once, the base tile and then the mosaic line by line,
            and its order stands; else it sees tile by tile.
        deal: How many patches each of the parts keeps, of a picture in tiles that keeps the given number in all; None
            where the budget is shared by size.
        choose_keep: K for this picture and question, where a client leaves it to the pruner; `keep` of its input is N.
            None for a pruner that cannot say.
    """

    name: str
    summary: str
    parameters: type[P]
    requirements: Callable[[P], FeatureRequirements]
    prune: Callable[[PrunerInput, P], PrunedTokens]
    reference: str = ""
    reads_text: bool = field(default=False)
    joins_tiles: bool = False
    allocate_budget: Callable[[TiledImage, int, P], Sequence[int]] | None = None
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
        allocate_budget = self.allocate_budget
        choose = self.choose_keep
        return BoundPruner(
            self.name,
            self.requirements(params),
            lambda job: self.prune(job, params),
            joins_tiles=self.joins_tiles,
            allocate_budget=None
            if allocate_budget is None
            else lambda picture, keep: allocate_budget(picture, keep, params),
            choose_keep=None if choose is None else lambda job: choose(job, params),
        )


@dataclass(frozen=True, slots=True)
class BoundPruner:
    """A pruner whose parameters are settled."""

    name: str
    requirements: FeatureRequirements
    prune: Callable[[PrunerInput], PrunedTokens]
    joins_tiles: bool = False
    allocate_budget: Callable[[TiledImage, int], Sequence[int]] | None = None
    choose_keep: Callable[[PrunerInput], int] | None = None
