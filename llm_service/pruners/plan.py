"""Pruning plans: which stages a method, its parameters and a budget give for one prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fovea.budget import Budget
from fovea.parameters import parse
from llm_service.pruners.base import AnyLlmPruningMethod, PruningContext, PruningResult, Stage

__all__ = ["BoundLlmPruner", "PruningPlan", "UnreachableBudget", "bind"]

_BISECTIONS: Final = 30


class UnreachableBudget(ValueError):
    """No schedule of the method comes near the budget. The message is meant for the caller."""


@dataclass(frozen=True, slots=True)
class PruningPlan:
    """Pruning of one prompt.

    Attributes:
        pruner: Method with its parameters.
        stages: Stages in order of their layers, all within the model.
        visual_tokens: Number of visual tokens that each layer attends over in the prefill.
    """

    pruner: BoundLlmPruner
    stages: tuple[Stage, ...]
    visual_tokens: tuple[int, ...]

    @property
    def average(self) -> float:
        """Visual tokens that a layer processes, mean over all layers."""
        return sum(self.visual_tokens) / len(self.visual_tokens)


@dataclass(frozen=True, slots=True)
class BoundLlmPruner:
    """A pruning method with its parameters."""

    method: AnyLlmPruningMethod
    params: Any

    @property
    def cached_copies(self) -> int:
        """Most times that a layer caches a prompt: 2 with `fidelity`, see `PruningResult.duplicates_cache`."""
        return 2 if getattr(self.params, "fidelity", False) else 1

    def prune(self, context: PruningContext, keep: int) -> PruningResult:
        """Runs one stage."""
        return self.method.prune(context, keep, self.params)

    def plan(self, budget: Budget, num_visual: int, num_layers: int) -> PruningPlan | None:
        """Plan for a prompt of `num_visual` visual tokens in a model of `num_layers`; None if nothing is pruned.

        Raises:
            UnreachableBudget: The layers before the first stage alone exceed the requested average.
        """
        keep = budget.resolve(num_visual)
        if keep >= num_visual:
            return None
        match self.params.counting:
            case "own":
                plan = self._plan_for_share(keep / num_visual, num_visual, num_layers)
            case "average":
                plan = self._nearest_plan(keep, num_visual, num_layers, lambda plan: plan.average)
                least = self._plan_for_share(0.0, num_visual, num_layers).average
                if least >= keep + 0.5:
                    raise UnreachableBudget(
                        f"{self.method.name} cannot reach an average of {keep} of {num_visual} visual tokens:"
                        f" its layers before the first stage alone make {math.ceil(least)}, the least accepted"
                    )
            case _:
                plan = self._nearest_plan(keep, num_visual, num_layers, _left_after_first_stage)
        return plan if plan.stages else None

    def plan_for_stages(self, stages: tuple[Stage, ...], num_visual: int, num_layers: int) -> PruningPlan:
        """Plan of given stages; those behind the last layer are left out."""
        stages = tuple(stage for stage in stages if stage.layer < num_layers)
        counts, count, remaining = [], num_visual, list(stages)
        for layer in range(num_layers):
            if remaining and remaining[0].layer == layer:
                keep = min(count, remaining.pop(0).keep)
                count = keep + self.method.num_merged(count, keep)
            counts.append(count)
        return PruningPlan(self, stages, tuple(counts))

    def _plan_for_share(self, share: float, num_visual: int, num_layers: int) -> PruningPlan:
        """Plan of the method's own schedule, without stages that would not reduce the number of tokens."""
        stages, count = [], num_visual
        for stage in self.method.schedule(share, num_visual, num_layers, self.params):
            if stage.keep >= count:
                continue
            left = stage.keep + self.method.num_merged(count, stage.keep)
            if left < count:
                stages.append(stage)
                count = left
        return self.plan_for_stages(tuple(stages), num_visual, num_layers)

    def _nearest_plan(
        self, keep: int, num_visual: int, num_layers: int, count: Callable[[PruningPlan], float]
    ) -> PruningPlan:
        """Plan whose count is nearest to `keep`, found by bisection over the share."""
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if count(self._plan_for_share(middle, num_visual, num_layers)) <= keep:
                low = middle
            else:
                high = middle
        below, above = (self._plan_for_share(share, num_visual, num_layers) for share in (low, high))
        return below if keep - count(below) <= count(above) - keep else above


def _left_after_first_stage(plan: PruningPlan) -> float:
    return plan.visual_tokens[plan.stages[0].layer] if plan.stages else plan.visual_tokens[0]


def bind(method: AnyLlmPruningMethod, values: Mapping[str, object]) -> BoundLlmPruner:
    """A method with the parameters of a request.

    Raises:
        InvalidParameter: A parameter is unknown or out of range; see `parameters.parse`.
    """
    return BoundLlmPruner(method, parse(method.parameters, values))
