"""Pruner: a pure function from the features of a batch of tower inputs, and perhaps questions, to fewer visual tokens.

A pruner works on tensors alone. It declares which tower outputs it reads (`FeatureRequirements`), and the service
computes exactly those. Different pruners therefore share one process and one unpatched model.

All tower inputs of a batch have the same grid and the same budget K. The batch is the leading axis of every tensor; the
shapes below are those of one tower input, and a tensor without a batch axis belongs to one. A pruner copies no value of
a tensor to the CPU, because on a GPU the copy waits until all work before it is done. Each tower input of a batch is
pruned as it would be alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum, auto
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.merging import clusters_of_kept, in_each_plane, merge_means
from encoder_service.pruners.tower_outputs import TowerOutput
from fovea.modeling.numerics import at_least_float32, take_vectors
from fovea.parameters import declared, parse
from fovea.pruner_spec import PrunerSpec

__all__ = [
    "FeatureRequirements",
    "PrunedTokens",
    "Pruner",
    "PrunerInput",
    "TextFeatures",
    "TextSpace",
    "TiledImages",
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
    """Features of a batch of tower inputs (images, tiles or frames) after the vision tower.

    Attributes:
        hidden: patches of X[V-1] in raster order without CLS, [N, C]; [n, C] if n patches were kept inside the tower.
        grid: rows and columns of the patch grid, N = rows * columns.
        outputs: tower outputs, at least the required ones.
        kept_in_tower: patches kept inside the tower, [n] int64, ascending; None for a tower that was not pruned.
        planes: DeepStack planes of the patches, [P, N, C]; None for a family without them. No pruner chooses by them.
    """

    hidden: Tensor
    grid: tuple[int, int]
    outputs: Mapping[TowerOutput, Tensor]
    kept_in_tower: Tensor | None = None
    planes: Tensor | None = None

    @property
    def num_patches(self) -> int:
        """N, the size of the grid, even if the tower was pruned inside."""
        return self.grid[0] * self.grid[1]

    @property
    def num_inputs(self) -> int:
        """B, the number of tower inputs."""
        return len(self.hidden)

    def at(self, index: int) -> TowerFeatures:
        """Features of one tower input of the batch, without a batch axis."""
        return self.mapped(lambda tensor: tensor[index])

    def mapped(self, change: Callable[[Tensor], Tensor]) -> TowerFeatures:
        """The features with `change` applied to each tensor."""
        outputs = {output: change(values) for output, values in self.outputs.items()}
        kept, planes = (None if part is None else change(part) for part in (self.kept_in_tower, self.planes))
        return TowerFeatures(change(self.hidden), self.grid, outputs, kept, planes)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (self.hidden, *self.outputs.values(), self.kept_in_tower, self.planes)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


@dataclass(frozen=True, slots=True)
class TiledImages:
    """Images in tiles (LLaVA-NeXT's anyres) without their padding, as a method sees them that allocates budgets.

    Attributes:
        base: features of the base tile (the downscaled image) of each image, a batch of G.
        sizes: number of patches of each tile of each image, the base tile first; a tile that is all padding is left
            out.
        tile_at: of each image the index into its sizes of each patch of the mosaic, [rows, columns] int64; empty if
            the image is too narrow for one patch. The mosaic is the grid of all tiles but the base tile, side by side.
    """

    base: TowerFeatures
    sizes: Sequence[Sequence[int]]
    tile_at: Sequence[npt.NDArray[np.int64]]


class TextSpace(Enum):
    """Space in which a family compares patches with questions."""

    CONTRASTIVE = auto()
    """Joint space of two towers that were trained to match whole images with whole texts (CLIP)."""
    INPUT_EMBEDDINGS = auto()
    """Input embeddings of the language model, which reads visual tokens beside them."""


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Features of questions after the text tower, which reads a long text in windows.

    Texts of a batch are padded to T positions and W windows. Attention, means and sums leave the padding out.

    Attributes:
        tokens: all positions of all windows (BOS, words, EOS) in the joint space, [T, D], not normalised.
        eos: EOS embedding of each window, [W, D].
        is_word: mask of words, [T] bool; False for BOS, EOS and padding.
        eos_attention: attention of the window's EOS to each position in the last text layer, mean over the heads, [T];
            None unless required.
        is_token: mask of BOS, words and EOS, [T] bool; None if there is no padding.
        is_window: mask of the windows, [W] bool; None if there is no padding.
        space: space of `tokens` and `eos`, the same as that of the tower output JOINT.
    """

    tokens: Tensor
    eos: Tensor
    is_word: Tensor
    eos_attention: Tensor | None = None
    is_token: Tensor | None = None
    is_window: Tensor | None = None
    space: TextSpace = TextSpace.CONTRASTIVE

    @property
    def is_bos(self) -> Tensor:
        """Mask of the first position of each window, [T] bool."""
        # BOS and EOS alternate around the words.
        outside = self._is_outside
        return outside & (outside.cumsum(dim=-1) % 2 == 1)

    @property
    def is_eos(self) -> Tensor:
        """Mask of the last position of each window, [T] bool."""
        outside = self._is_outside
        return outside & (outside.cumsum(dim=-1) % 2 == 0)

    @property
    def _is_outside(self) -> Tensor:
        """Mask of BOS and EOS."""
        return ~self.is_word if self.is_token is None else self.is_token & ~self.is_word

    def take(self, texts: Tensor) -> TextFeatures:
        """Texts of a batch by their indices, [n] int64."""

        def taken(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[texts]

        return replace(
            self,
            tokens=self.tokens[texts],
            eos=self.eos[texts],
            is_word=self.is_word[texts],
            eos_attention=taken(self.eos_attention),
            is_token=taken(self.is_token),
            is_window=taken(self.is_window),
        )


@dataclass(frozen=True, slots=True)
class PrunerInput:
    """Input of a pruner.

    Attributes:
        vision: features of tower inputs.
        keep: K, number of tokens to keep of each tower input, 1 <= K <= N.
        text: features of the question of each tower input; None without questions or if the pruner does not read them.
        seeds: seed of each tower input for random choices, derived from the image so that equal images are pruned
            alike.
    """

    vision: TowerFeatures
    keep: int
    text: TextFeatures | None = None
    seeds: Sequence[int] = (0,)


@dataclass(frozen=True, slots=True)
class PrunedTokens:
    """Visual tokens of tower inputs after pruning: K of each, unless the pruner's documentation states otherwise.

    Attributes:
        features: visual tokens in the order in which the language model reads them, [K, C], at least float32.
        origins: patch that each token stands for, [K] int64, in any order; a `TokenOrigin` for a token that is not one
            patch. `grid_positions` replaces those by free grid positions.
        cluster_of_patch: index into `features` of the token that each patch became or was merged into, [N] int64; -1
            for a dropped patch.
        task_map: relevance of each patch to the question, [N]; None if the pruner computes none.
        saliency_map: attention of CLS to each patch, [N]; None if the pruner reads none.
        reading_group: order of tokens across the tiles of an image, [K] int64. Group 0 comes first, in raster order of
            the mosaic; each later group follows tile by tile. None puts all tokens into group 0. The base tile precedes
            all groups and keeps its own order.
        counts: number of tokens of each tower input; those beyond it are padding. None if each has K tokens.
        planes: DeepStack planes of the tokens, [P, K, C], at least float32. None leaves them to `with_planes`.
    """

    features: Tensor
    origins: Tensor
    cluster_of_patch: Tensor
    task_map: Tensor | None = None
    saliency_map: Tensor | None = None
    reading_group: Tensor | None = None
    counts: Sequence[int] | None = None
    planes: Tensor | None = None

    @classmethod
    def unpruned(cls, vision: TowerFeatures, *, reading_group: int = 0) -> PrunedTokens:
        """Every patch unchanged."""
        shape = vision.hidden.shape[:-1]
        patches = torch.arange(shape[-1], device=vision.hidden.device).expand(shape)
        group = None if reading_group == 0 else torch.full_like(patches, reading_group)
        return cls(at_least_float32(vision.hidden), patches, patches, reading_group=group)

    @classmethod
    def of_patches(cls, vision: TowerFeatures, kept: Tensor, *, saliency_map: Tensor | None = None) -> PrunedTokens:
        """The patches `kept` [K] unchanged, in the given order; all others are dropped."""
        features = at_least_float32(take_vectors(vision.hidden, kept))
        return cls(features, kept, clusters_of_kept(kept, vision.hidden.shape[-2]), saliency_map=saliency_map)

    @classmethod
    def merged(
        cls,
        vision: TowerFeatures,
        kept: Tensor,
        cluster_of_patch: Tensor,
        *,
        task_map: Tensor | None = None,
        saliency_map: Tensor | None = None,
    ) -> PrunedTokens:
        """The mean of each kept patch [K] and the patches of its cluster (`cluster_of_patch`), in every plane alike."""
        planes = vision.planes
        if planes is not None:
            planes = in_each_plane(merge_means, planes, cluster_of_patch, kept)
        features = merge_means(vision.hidden, cluster_of_patch, kept)
        return cls(features, kept, cluster_of_patch, task_map, saliency_map, planes=planes)

    def with_planes(self, vision: TowerFeatures) -> PrunedTokens:
        """The tokens with DeepStack planes, if `vision` has any that the pruner has not merged itself.

        Each token gets the planes of the patch that it stands for, and zeros if it stands for none.
        """
        if vision.planes is None or self.planes is not None:
            return self
        planes = at_least_float32(in_each_plane(take_vectors, vision.planes, self.origins.clamp_min(0)))
        is_patch = (self.origins >= 0)[..., None, :, None]
        return replace(self, planes=torch.where(is_patch, planes, 0))


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
        allocate_budget: function from images in tiles and the total budget of each to the budgets of their tiles; None
            to share each budget by the tiles' sizes. It may read values once a batch.
        choose_keep: function that chooses K for each tower input with the budget `auto`; the `keep` of its input is N.
            None if the pruner cannot choose K. It may read values once a batch.
    """

    name: str
    summary: str
    parameters: type[P]
    requirements: Callable[[P], FeatureRequirements]
    prune: Callable[[PrunerInput, P], PrunedTokens]
    reference: str = ""
    reads_text: bool = field(default=False)
    joins_tiles: bool = False
    allocate_budget: Callable[[TiledImages, Sequence[int], P], Sequence[Sequence[int]]] | None = None
    choose_keep: Callable[[PrunerInput, P], Sequence[int]] | None = None

    @property
    def spec(self) -> PrunerSpec:
        """Description for clients."""
        return PrunerSpec(
            name=self.name,
            side="encoder",
            summary=self.summary,
            reference=self.reference,
            reads_text=self.reads_text,
            chooses_budget=self.choose_keep is not None,
            parameters=declared(self.parameters),
        )

    def bind(self, values: Mapping[str, object]) -> BoundPruner:
        """The pruner with the parameters of a request.

        Raises:
            InvalidParameter: unknown parameter or value (see `fovea.parameters.parse`).
        """
        params: Any = parse(self.parameters, values)
        return BoundPruner(self, params, self.requirements(params))


@dataclass(frozen=True, slots=True)
class BoundPruner:
    """Pruner with its parameters set. Two that prune alike are equal, so that their requests are pruned together.

    Attributes:
        pruner: the pruner.
        params: its parameters.
        requirements: what it reads with these parameters.
    """

    pruner: Pruner[Any]
    params: Any
    requirements: FeatureRequirements = field(compare=False)

    @property
    def name(self) -> str:
        """Name of the pruner in requests."""
        return self.pruner.name

    def prune(self, inputs: PrunerInput) -> PrunedTokens:
        """See `Pruner.prune`."""
        return self.pruner.prune(inputs, self.params)
