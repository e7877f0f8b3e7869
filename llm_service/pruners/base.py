"""What a pruner inside the language model is: at the inputs of some layers it chooses which visual tokens go on.

A pruner knows tensors alone. The engine runs the model's own layers and stops before those that the plan names; there
the pruner sees a `Moment`, the prompt between two layers, and answers with a `Choice`. Rows of attention are computed
when they are asked for, from the layer's own projections: no map of all queries is ever made, and no model is patched.

T is the length of the sequence at a moment, n its visual tokens, N those of the unpruned prompt, D the model's width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from fovea.parameters import Parameter, choice, declared

__all__ = [
    "Choice",
    "LayerView",
    "LlmPruner",
    "Moment",
    "PrunerParameters",
    "Stage",
    "VisualLayout",
]


class LayerView(Protocol):
    """The attention of one layer on the sequence of a moment. H heads of size d; rotary positions are applied."""

    @property
    def rotary(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each [T, d]."""
        ...

    def queries(self, places: Tensor) -> Tensor:
        """[H, R, d] queries of the R places of the sequence given."""
        ...

    def keys(self) -> Tensor:
        """[H, T, d]; heads that share a key are repeated."""
        ...

    def values(self) -> Tensor:
        """[H, T, d], likewise."""
        ...

    def raw_keys(self, places: Tensor) -> Tensor:
        """[R, width of the keys]: the key projection of the hidden states without the layer's norm and without
        rotation, heads side by side."""
        ...


@dataclass(frozen=True, slots=True)
class VisualLayout:
    """Where the visual tokens of an unpruned prompt come from. A frame of a video counts as a picture.

    Attributes:
        places: [N] int64, ascending places in the sequence. The last place of a prompt is never among them: its hidden
            state makes the first answer token, so it cannot be pruned.
        picture: [N] int64, index of the picture in `grids`.
        row: [N] int64, row in that picture's patch grid.
        column: [N] int64, column in it.
        grids: (rows, columns) of each picture that has a token.
    """

    places: Tensor
    picture: Tensor
    row: Tensor
    column: Tensor
    grids: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, slots=True)
class Moment:
    """A prompt at the input of layer k, 1 <= k < L, before anything is pruned there.

    Attributes:
        hidden: [T, D], what would enter layer k.
        previous_hidden: [T, D], what entered layer k - 1; the same tokens.
        visual: [n] int64, ascending places of the visual tokens.
        origin: [n] int64, which of the N tokens each is; merged ones are N, N + 1, ... in order of creation.
        previous: Attention of layer k - 1, which has run.
        upcoming: Attention of layer k, which has not.
        prompt: [T0, D], the input embeddings of the unpruned prompt.
        layout: Its visual tokens.
    """

    hidden: Tensor
    previous_hidden: Tensor
    visual: Tensor
    origin: Tensor
    previous: LayerView
    upcoming: LayerView
    prompt: Tensor
    layout: VisualLayout

    @property
    def last(self) -> Tensor:
        """[1], the place of the last prompt token."""
        return torch.tensor([len(self.hidden) - 1], device=self.hidden.device)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which visual tokens go on.

    Attributes:
        kept: [K] int64, ascending indices into `Moment.visual`.
        merged: [q, D], new tokens made of dropped ones; they follow the last visual token of the prompt.
        doubles_cache: The layer before keeps all it has cached twice. A known defect, for those who ask for it.
    """

    kept: Tensor
    merged: Tensor | None = None
    doubles_cache: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """One pruning step: at the input of layer `layer` (from 0) `keep` visual tokens stay, merged ones not counted."""

    layer: int
    keep: int


@dataclass(frozen=True, slots=True)
class PrunerParameters:
    """What every method understands."""

    counting: str = choice(
        "own",
        ("own", "average", "first"),
        description="own, average or first: what the budget counts. own: what the method's authors count;"
        " average: visual tokens that a layer processes, mean over all layers, as near as the schedule comes;"
        " first: visual tokens left after the first prune",
    )


P = TypeVar("P", bound=PrunerParameters)


@dataclass(frozen=True, slots=True)
class LlmPruner(Generic[P]):
    """A method.

    Attributes:
        name: As users write it.
        summary: One sentence.
        reference: Paper.
        reads_text: Its choice depends on the question.
        compact: Rotary positions are renumbered without gaps after each prune; otherwise tokens keep theirs.
        parameters: Dataclass of parameters.
        schedule: `(share, n, L, params)` to the stages for n visual tokens and L layers. A share of 0 to 1 is the
            budget over n as the authors count it; more share never keeps less on average, and a share of 1 keeps all.
        prune: `(moment, keep, params)` to a choice. Pure; clamps `keep` to what there is.
        num_merged: `(n, keep)` to how many tokens a prune of n to `keep` adds by merging.
    """

    name: str
    summary: str
    reference: str
    reads_text: bool
    compact: bool
    parameters: type[P]
    schedule: Callable[[float, int, int, P], tuple[Stage, ...]]
    prune: Callable[[Moment, int, P], Choice]
    num_merged: Callable[[int, int], int] = field(default=lambda n, keep: 0)

    def describe(self) -> tuple[Parameter, ...]:
        """The parameters as clients see them."""
        return declared(self.parameters)


AnyPruner = LlmPruner[Any]
