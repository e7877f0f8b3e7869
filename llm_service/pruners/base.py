"""Interface of the pruners inside the language model, which drop visual tokens at the inputs of some layers.

A pruner works on tensors only. The engine runs the layers of the model and stops before each layer of the pruning plan.
There the pruner receives a `PruningContext` and returns a `PruningResult`. Attention weights are computed on request,
from the layer's own projections, for the queries that the pruner needs. The full attention map is never computed. The
model's code is not patched.

T is the length of the sequence at a stage, n is the number of its visual tokens, N is their number in the unpruned
prompt, D is the hidden size and L is the number of layers of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from fovea.parameters import choice, declared
from fovea.pruner_spec import PrunerSpec

__all__ = [
    "AnyLlmPruningMethod",
    "LayerAttention",
    "LlmPruningMethod",
    "PrunerParameters",
    "PruningContext",
    "PruningResult",
    "Stage",
    "VisualLayout",
]


class LayerAttention(Protocol):
    """Attention of one layer on the sequence at a stage, with H heads of size d. Queries and keys are rotated."""

    @property
    def rotary(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each [T, d]."""
        ...

    def queries(self, indices: Tensor) -> Tensor:
        """[H, R, d] queries of the tokens at R indices."""
        ...

    def keys(self) -> Tensor:
        """[H, T, d] keys; a key that several heads share is repeated."""
        ...

    def values(self) -> Tensor:
        """[H, T, d] values; a value that several heads share is repeated."""
        ...

    def raw_keys(self, indices: Tensor) -> Tensor:
        """[R, width of the keys] keys of the tokens at R indices, without the layer's norm and without rotation. Heads
        are concatenated."""
        ...


@dataclass(frozen=True, slots=True)
class VisualLayout:
    """The prunable visual tokens of an unpruned prompt. Each frame of a video counts as an image.

    Attributes:
        indices: [N] int64, ascending indices in the sequence. The last token of a prompt is never among them, since its
            hidden state yields the first answer token.
        image: [N] int64, index of the image in `grids`.
        row: [N] int64, row in the image's patch grid.
        column: [N] int64, column in the image's patch grid.
        grids: (rows, columns) of each image that has a token.
    """

    indices: Tensor
    image: Tensor
    row: Tensor
    column: Tensor
    grids: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True, slots=True)
class PruningContext:
    """State of a prompt at the input of layer k, 1 <= k < L, before the pruning there.

    Attributes:
        hidden_states: [T, D] input of layer k.
        previous_hidden_states: [T, D] input of layer k - 1, of the same tokens.
        visual_indices: [n] int64, ascending indices of the visual tokens in the sequence.
        original_indices: [n] int64, index of each visual token among the N of the unpruned prompt. Merged tokens have
            the indices N, N + 1, ... in order of creation.
        previous: Attention of layer k - 1, which has run.
        upcoming: Attention of layer k, which has not run.
        inputs_embeds: [T0, D] input embeddings of the unpruned prompt.
        layout: Visual tokens of the unpruned prompt.
    """

    hidden_states: Tensor
    previous_hidden_states: Tensor
    visual_indices: Tensor
    original_indices: Tensor
    previous: LayerAttention
    upcoming: LayerAttention
    inputs_embeds: Tensor
    layout: VisualLayout

    @property
    def last_index(self) -> Tensor:
        """[1] index of the last prompt token in the sequence."""
        return torch.tensor([len(self.hidden_states) - 1], device=self.hidden_states.device)


@dataclass(frozen=True, slots=True)
class PruningResult:
    """The visual tokens after a pruning step.

    Attributes:
        kept: [K] int64, ascending indices into `PruningContext.visual_indices`.
        merged: [q, D] new tokens, merged from dropped ones; they follow the last visual token of the prompt.
        duplicates_cache: Whether the key-value cache of layer k - 1 is appended to itself. Some released code has this
            defect.
    """

    kept: Tensor
    merged: Tensor | None = None
    duplicates_cache: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """One pruning step.

    Attributes:
        layer: Index, from 0, of the layer at whose input visual tokens are dropped.
        keep: Number of visual tokens that are kept, merged ones not counted.
    """

    layer: int
    keep: int


@dataclass(frozen=True, slots=True)
class PrunerParameters:
    """Parameters that every method has."""

    counting: str = choice(
        "own",
        ("own", "average", "first"),
        description="own, average or first: how the budget is counted. own: as the method's authors count;"
        " average: visual tokens that a layer processes, mean over all layers, as near as the schedule allows;"
        " first: visual tokens left after the first stage",
    )


P = TypeVar("P", bound=PrunerParameters)


@dataclass(frozen=True, slots=True)
class LlmPruningMethod(Generic[P]):
    """A pruning method.

    Attributes:
        name: Name in requests.
        summary: Description in one sentence.
        reference: Paper of the method.
        reads_text: Whether the result depends on the question.
        compact: Whether position ids are renumbered without gaps after each stage. Otherwise each token keeps its own.
        parameters: Dataclass of the parameters.
        schedule: Function `(share, n, L, params)` that returns the stages for n visual tokens and L layers. The share,
            0 to 1, is the budget divided by n, where the budget is counted as the authors do. A larger share never
            keeps fewer tokens on average. A share of 1 keeps all tokens.
        prune: Pure function `(context, keep, params)` that returns the result. It clamps `keep` to the possible range.
        num_merged: Function `(n, keep)` that returns the number of merged tokens that a stage adds when it prunes n
            tokens to `keep`.
    """

    name: str
    summary: str
    reference: str
    reads_text: bool
    compact: bool
    parameters: type[P]
    schedule: Callable[[float, int, int, P], tuple[Stage, ...]]
    prune: Callable[[PruningContext, int, P], PruningResult]
    num_merged: Callable[[int, int], int] = field(default=lambda n, keep: 0)

    def __post_init__(self) -> None:
        if not issubclass(self.parameters, PrunerParameters):
            raise TypeError(f"the parameters of {self.name} do not extend PrunerParameters")

    @property
    def spec(self) -> PrunerSpec:
        """Description for clients."""
        return PrunerSpec(
            name=self.name,
            side="llm",
            summary=self.summary,
            reference=self.reference,
            reads_text=self.reads_text,
            chooses_budget=False,
            parameters=declared(self.parameters),
        )


AnyLlmPruningMethod = LlmPruningMethod[Any]
