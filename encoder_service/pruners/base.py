"""Pruner: a pure function from the features of one tower input, and perhaps a question, to fewer visual tokens.

A pruner works on tensors alone. It declares which tower outputs it reads (`FeatureRequirements`), and the service
computes exactly those. Different pruners therefore share one process and one unpatched model.
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
    """Value in `PrunedTokens.origins` for a token that is not one patch."""

    CLS = -1
    SUM = -2  # a weighted sum over many patches
    ZERO = -3  # a vector of zeros


@dataclass(frozen=True, slots=True)
class FeatureRequirements:
    """Inputs that a pruner reads besides the hidden states.

    Attributes:
        outputs: outputs of the vision tower.
        tile_outputs: further tower outputs for an image in tiles.
        text: whether the question's text features are read.
        eos_attention: whether attention inside the text tower is read.
        in_tower: function from K to the pruner that runs inside the tower; None for a pruner that runs after it. A
            tower that is pruned inside computes no outputs.
    """

    outputs: frozenset[TowerOutput] = frozenset()
    tile_outputs: frozenset[TowerOutput] = frozenset()
    text: bool = False
    eos_attention: bool = False
    in_tower: Callable[[int], InTowerPruner] | None = None


@dataclass(frozen=True, slots=True)
class TowerFeatures:
    """Features of one tower input: an image, a tile or a frame after the vision tower.

    Attributes:
        hidden: patches of X[V-1] in raster order without CLS, [N, C]; [n, C] if n patches were kept inside the tower.
        grid: rows and columns of the patch grid, N = rows * columns.
        outputs: tower outputs, at least the required ones.
        kept_in_tower: patches kept inside the tower, [n] int64, ascending; None for a tower that was not pruned.
    """

    hidden: Tensor
    grid: tuple[int, int]
    outputs: Mapping[TowerOutput, Tensor]
    kept_in_tower: Tensor | None = None

    @property
    def num_patches(self) -> int:
        """N, the size of the grid, even if the tower was pruned inside."""
        return self.grid[0] * self.grid[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (self.hidden, *self.outputs.values(), *(() if self.kept_in_tower is None else (self.kept_in_tower,)))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def take(self, patches: Tensor, grid: tuple[int, int]) -> TowerFeatures:
        """Features of some patches as a tower input of their own.

        Args:
            patches: raster indices in the order of the result, [n] int64. If the tower was pruned inside, they are
                ascending, and the result has only those that the tower kept.
            grid: rows and columns of the result, n = rows * columns.
        """
        patches = patches.to(self.hidden.device)
        if self.kept_in_tower is not None:
            new_index = torch.full((self.num_patches,), -1, device=patches.device)
            new_index[patches] = torch.arange(len(patches), device=patches.device)
            kept = new_index[self.kept_in_tower]
            return TowerFeatures(self.hidden[kept >= 0], grid, {}, kept[kept >= 0])

        def take_output(output: TowerOutput, vectors: Tensor) -> Tensor:
            if output == CLS_HIDDEN:
                return vectors
            return torch.cat([vectors[:1], vectors[1:][patches]]) if output.has_cls else vectors[patches]

        return TowerFeatures(
            self.hidden[patches],
            grid,
            {output: take_output(output, vectors) for output, vectors in self.outputs.items()},
        )

    @classmethod
    def concatenated(cls, features: Sequence[TowerFeatures]) -> TowerFeatures:
        """Patches of several tower inputs, one input after the other, as a grid of one row.

        CLS vectors are averaged. The result has the outputs that all inputs have.

        Args:
            features: features of one or more tower inputs, none of them pruned inside the tower.
        """

        def concatenate(output: TowerOutput) -> Tensor:
            vectors = [item.outputs[output] for item in features]
            if output == CLS_HIDDEN:
                return torch.stack(vectors).mean(dim=0)
            if not output.has_cls:
                return torch.cat(vectors)
            mean_cls = torch.stack([item[0] for item in vectors]).mean(dim=0)
            return torch.cat([mean_cls[None], *(item[1:] for item in vectors)])

        common = frozenset.intersection(*(frozenset(item.outputs) for item in features))
        hidden = torch.cat([item.hidden for item in features])
        return cls(hidden, (1, len(hidden)), {output: concatenate(output) for output in sorted(common)})


@dataclass(frozen=True, slots=True)
class TiledImage:
    """Features of an image in tiles (LLaVA-NeXT's anyres), without its padding.

    Attributes:
        tiles: the base tile (the downscaled image), then each other tile that is not all padding, in raster order.
        tile_at: index into `tiles` of each patch of the mosaic, [rows, columns] int64; empty if the image is too
            narrow for one patch. The mosaic is the grid of all tiles but the base tile, side by side.
    """

    tiles: tuple[TowerFeatures, ...]
    tile_at: Tensor


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Features of one question after the text tower, which reads a long text in W windows.

    Attributes:
        tokens: all positions of all windows (BOS, words, EOS) in the joint space, [T, D], not normalised.
        eos: EOS embedding of each window, [W, D].
        is_word: mask of words, [T] bool; False for BOS and EOS.
        eos_attention: attention of the window's EOS to each position in the last text layer, mean over the heads, [T];
            None unless required.
    """

    tokens: Tensor
    eos: Tensor
    is_word: Tensor
    eos_attention: Tensor | None = None

    @property
    def is_bos(self) -> Tensor:
        """Mask of the first position of each window, [T] bool."""
        # BOS and EOS alternate around the words.
        outside = (~self.is_word).nonzero().squeeze(1)
        return torch.zeros_like(self.is_word).index_fill(0, outside[0::2], True)

    @property
    def is_eos(self) -> Tensor:
        """Mask of the last position of each window, [T] bool."""
        return ~self.is_word & ~self.is_bos


@dataclass(frozen=True, slots=True)
class PrunerInput:
    """Input of a pruner.

    Attributes:
        vision: features of one tower input.
        keep: K, number of tokens to keep, 1 <= K <= N.
        text: features of the question; None without a question or if the pruner does not read it.
        seed: seed for random choices, derived from the image so that equal images are pruned alike.
    """

    vision: TowerFeatures
    keep: int
    text: TextFeatures | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class PrunedTokens:
    """Visual tokens of one tower input after pruning: K of them, unless the pruner's documentation states otherwise.

    Attributes:
        features: visual tokens in the order in which the language model reads them, [K, C], at least float32.
        origins: patch that each token stands for, [K] int64, in any order; a `TokenOrigin` for a token that is not one
            patch. `with_grid_positions` replaces those by free grid positions.
        cluster_of_patch: index into `features` of the token that each patch became or was merged into, [N] int64; -1
            for a dropped patch.
        task_map: relevance of each patch to the question, [N]; None if the pruner computes none.
        saliency_map: attention of CLS to each patch, [N]; None if the pruner reads none.
        reading_group: order of tokens across the tiles of an image, [K] int64. Group 0 comes first, in raster order of
            the mosaic; each later group follows tile by tile. None puts all tokens into group 0. The base tile precedes
            all groups and keeps its own order.
    """

    features: Tensor
    origins: Tensor
    cluster_of_patch: Tensor
    task_map: Tensor | None = None
    saliency_map: Tensor | None = None
    reading_group: Tensor | None = None

    @classmethod
    def unpruned(cls, vision: TowerFeatures, *, reading_group: int = 0) -> PrunedTokens:
        """Every patch unchanged."""
        patches = torch.arange(len(vision.hidden), device=vision.hidden.device)
        group = torch.full_like(patches, reading_group)
        return cls(at_least_float32(vision.hidden), patches, patches.clone(), reading_group=group)

    @classmethod
    def of_patches(cls, vision: TowerFeatures, kept: Tensor, *, saliency_map: Tensor | None = None) -> PrunedTokens:
        """The patches `kept` [K] unchanged, in the given order; all others are dropped."""
        cluster_of_patch = torch.full_like(vision.hidden[:, 0], -1, dtype=torch.int64)
        cluster_of_patch[kept] = torch.arange(len(kept), device=cluster_of_patch.device)
        return cls(at_least_float32(vision.hidden[kept]), kept, cluster_of_patch, saliency_map=saliency_map)


@dataclass(frozen=True, slots=True)
class Pruner(Generic[P]):
    """A pruning method.

    Attributes:
        name: name in requests.
        summary: one or two sentences for users.
        parameters: dataclass of parameters (see `fovea.parameters`).
        requirements: function from the parameters to what the method reads.
        prune: the method. It is pure and does not change its inputs.
        reference: paper; "" for a baseline.
        reads_text: whether the choice of tokens depends on the question.
        joins_tiles: whether all tiles of an image are pruned as one sequence, the base tile and then the mosaic in
            raster order. The order of the resulting tokens is then final. If False, each tile is pruned by itself.
        allocate_budget: function from an image in tiles and its total budget to the budget of each tile; None to share
            the budget by the tiles' sizes.
        choose_keep: function that chooses K for a request with the budget `auto`; the `keep` of its input is N. None if
            the pruner cannot choose K.
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
        """Declared parameters, as clients see them."""
        return declared(self.parameters)

    def bind(self, values: Mapping[str, object]) -> BoundPruner:
        """The pruner with the parameters of a request.

        Raises:
            InvalidParameter: unknown parameter or value (see `fovea.parameters.parse`).
        """
        params: Any = parse(self.parameters, values)
        allocate_budget = self.allocate_budget
        choose_keep = self.choose_keep
        return BoundPruner(
            self.name,
            self.requirements(params),
            lambda inputs: self.prune(inputs, params),
            joins_tiles=self.joins_tiles,
            allocate_budget=None
            if allocate_budget is None
            else lambda image, keep: allocate_budget(image, keep, params),
            choose_keep=None if choose_keep is None else lambda inputs: choose_keep(inputs, params),
        )


@dataclass(frozen=True, slots=True)
class BoundPruner:
    """Pruner with its parameters set."""

    name: str
    requirements: FeatureRequirements
    prune: Callable[[PrunerInput], PrunedTokens]
    joins_tiles: bool = False
    allocate_budget: Callable[[TiledImage, int], Sequence[int]] | None = None
    choose_keep: Callable[[PrunerInput], int] | None = None
