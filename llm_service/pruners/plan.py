"""From a pruner, its parameters and a budget to what happens at which layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fovea.budget import resolve_budget
from fovea.parameters import parse
from llm_service.pruners.base import AnyPruner, Choice, Moment, Stage

__all__ = ["BoundPruner", "Budget", "PruningPlan", "UnreachableBudget", "bind"]

_BISECTIONS: Final = 30


class UnreachableBudget(ValueError):
    """No schedule of the method comes near the budget. The message is for the caller."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many visual tokens, all pictures of a prompt together.

    Attributes:
        keep_tokens: A count of at least 1; at or above what there is nothing is pruned.
        keep_ratio: Or a share in (0, 1]: max(1, floor(ratio n + 0.5)) of n.

    Raises:
        ValueError: Not exactly one of the two, or one that is out of its range.
    """

    keep_tokens: int | None = None
    keep_ratio: float | None = None

    def __post_init__(self) -> None:
        self.resolve(1)

    def resolve(self, num_visual: int) -> int:
        """The count for n visual tokens; n itself where nothing is to be pruned."""
        keep = resolve_budget(num_visual, keep_tokens=self.keep_tokens, keep_ratio=self.keep_ratio)
        return min(num_visual, keep)


@dataclass(frozen=True, slots=True)
class PruningPlan:
    """What happens to one prompt.

    Attributes:
        pruner: The method with its parameters.
        stages: In order of their layers, all within the model.
        visual_tokens: For each layer the visual tokens that it attends over in the prefill.
    """

    pruner: BoundPruner
    stages: tuple[Stage, ...]
    visual_tokens: tuple[int, ...]

    @property
    def average(self) -> float:
        """Visual tokens a layer processes, mean over all layers."""
        return sum(self.visual_tokens) / len(self.visual_tokens)


@dataclass(frozen=True, slots=True)
class BoundPruner:
    """A method whose parameters are settled."""

    method: AnyPruner
    params: Any

    def prune(self, moment: Moment, keep: int) -> Choice:
        """Chooses at one moment."""
        return self.method.prune(moment, keep, self.params)

    def plan(self, budget: Budget, num_visual: int, num_layers: int) -> PruningPlan | None:
        """The stages for a prompt of n visual tokens in a model of L layers; None where nothing is to be pruned.

        Raises:
            UnreachableBudget: The layers before the first prune alone exceed the average that is asked for.
        """
        keep = budget.resolve(num_visual)
        if keep >= num_visual:
            return None
        match self.params.counting:
            case "own":
                plan = self._at(keep / num_visual, num_visual, num_layers)
            case "average":
                plan = self._nearest(keep, num_visual, num_layers, lambda plan: plan.average)
                least = self._at(0.0, num_visual, num_layers).average
                if least >= keep + 0.5:
                    raise UnreachableBudget(
                        f"{self.method.name} cannot reach an average of {keep} of {num_visual} visual tokens:"
                        f" its layers before the first prune alone make {math.ceil(least)}, the least accepted"
                    )
            case _:
                plan = self._nearest(keep, num_visual, num_layers, _left_after_first)
        return plan if plan.stages else None

    def with_stages(self, stages: tuple[Stage, ...], num_visual: int, num_layers: int) -> PruningPlan:
        """The plan of given stages; those behind the last layer, where nothing is left to save, fall away."""
        stages = tuple(stage for stage in stages if stage.layer < num_layers)
        counts, current, upcoming = [], num_visual, list(stages)
        for layer in range(num_layers):
            if upcoming and upcoming[0].layer == layer:
                keep = min(current, upcoming.pop(0).keep)
                current = keep + self.method.num_merged(current, keep)
            counts.append(current)
        return PruningPlan(self, stages, tuple(counts))

    def _at(self, share: float, num_visual: int, num_layers: int) -> PruningPlan:
        """The method's own schedule, without the steps that would leave as many tokens as before."""
        stages, current = [], num_visual
        for stage in self.method.schedule(share, num_visual, num_layers, self.params):
            if stage.keep >= current:
                continue
            left = stage.keep + self.method.num_merged(current, stage.keep)
            if left < current:
                stages.append(stage)
                current = left
        return self.with_stages(tuple(stages), num_visual, num_layers)

    def _nearest(
        self, keep: int, num_visual: int, num_layers: int, count: Callable[[PruningPlan], float]
    ) -> PruningPlan:
        """The schedule whose count is nearest to `keep`, found by bisection along the share."""
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if count(self._at(middle, num_visual, num_layers)) <= keep:
                low = middle
            else:
                high = middle
        below, above = (self._at(share, num_visual, num_layers) for share in (low, high))
        return below if keep - count(below) <= count(above) - keep else above


def _left_after_first(plan: PruningPlan) -> float:
    return plan.visual_tokens[plan.stages[0].layer] if plan.stages else plan.visual_tokens[0]


def bind(method: AnyPruner, values: Mapping[str, object]) -> BoundPruner:
    """A method with the parameters that a client sent.

    Raises:
        InvalidParameter: See `parameters.parse`.
    """
    return BoundPruner(method, parse(method.parameters, values))
