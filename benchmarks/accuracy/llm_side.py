"""Accuracy of pruners inside the language model, beside an encoder-side one at the same budget.

Papers count a budget in two ways, and every method is measured in both. `average` is the number of visual tokens that a
layer processes, mean over all layers, so rows cost alike. `first` is the number that is left after the first prune. The
encoder sends all visual tokens, except in the combined rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final

from benchmarks.accuracy.evaluation import Evaluation, MethodOutcome
from benchmarks.accuracy.system import LlmMethod, Method
from benchmarks.harness.intervals import Floats
from fovea.errors import InvalidRequest

__all__ = ["COUNTINGS", "REFERENCE", "llm_side_rows"]

# Default budgets of each counting. An average has a floor, set by the layers before the first prune.
COUNTINGS: Final = {
    "average": (Fraction(1, 9), Fraction(2, 9), Fraction(1, 3), Fraction(1, 2)),
    "first": (Fraction(1, 18), Fraction(1, 9), Fraction(2, 9), Fraction(1, 3)),
}
REFERENCE: Final = "desap"
# Encoder-side pruner and budget, pruner inside the model, and the average that both together reach.
COMBINED: Final = (
    ("desap", Fraction(2, 9), "fastv", Fraction(1, 9)),
    ("desap", Fraction(1, 3), "fastv", Fraction(1, 9)),
)


def llm_side_rows(
    evaluation: Evaluation, pruners: Sequence[str], budgets: Sequence[Fraction] | None
) -> list[dict[str, Any]]:
    """Rows: unpruned, then for each counting and budget the reference, the pruners, and combinations of both sides.

    A row that cannot reach its budget has no groups; `refused` holds the service's error text.
    """
    base = evaluation.run(Method("none"), "none")
    rows = [_row(evaluation, "none", None, Fraction(1), base, base.scores, base.scores)]
    budgets_of = {counting: budgets or default for counting, default in COUNTINGS.items()}
    reference = {
        budget: evaluation.run(Method(REFERENCE, float(budget)), f"{REFERENCE} {budget}")
        for budget in sorted({budget for chosen in budgets_of.values() for budget in chosen})
    }
    for counting, chosen in budgets_of.items():
        for budget in chosen:
            against = reference[budget]
            rows.append(_row(evaluation, REFERENCE, counting, budget, against, base.scores, against.scores))
            methods = {name: Method("none", llm=_inside(name, budget, counting)) for name in pruners}
            if counting == "average":
                methods |= {
                    f"{first} {share}, {name}": Method(first, float(share), llm=_inside(name, budget / share, counting))
                    for first, share, name, average in COMBINED
                    if name in pruners and average == budget
                }
            for label, method in methods.items():
                outcome = _run(evaluation, method, f"{label} {counting} {budget}")
                rows.append(_row(evaluation, label, counting, budget, outcome, base.scores, against.scores))
    return rows


def _inside(name: str, share: Fraction, counting: str) -> LlmMethod:
    return LlmMethod(name, float(share), {"counting": counting})


def _run(evaluation: Evaluation, method: Method, label: str) -> MethodOutcome | str:
    try:
        return evaluation.run(method, label)
    except InvalidRequest as error:
        return error.message


def _row(
    evaluation: Evaluation,
    label: str,
    counting: str | None,
    budget: Fraction,
    outcome: MethodOutcome | str,
    base: Floats,
    against: Floats,
) -> dict[str, Any]:
    row = {"pruner": label, "counting": counting, "budget": str(budget), "keep_ratio": float(budget)}
    if isinstance(outcome, str):
        return row | {"refused": outcome}
    groups = evaluation.cell(outcome.scores, minus_unpruned=base, minus_reference=against)
    return row | {"visual_tokens": outcome.visual_tokens, "groups": groups}
