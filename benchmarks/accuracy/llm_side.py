"""Accuracy of pruners inside the language model, beside an encoder-side one at the same budget.

A method of several steps says "64 tokens" of an average over the layers, one of a single step of what is left. Both are
asked here in the same words: `average` is what a layer processes, mean over all layers, so rows cost alike; `first` is
what the first prune leaves. The encoder sends everything, but in the combined rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final

from benchmarks.accuracy.evaluation import Evaluation, MethodOutcome
from benchmarks.accuracy.system import LlmMethod, Method
from benchmarks.harness.intervals import Floats
from fovea.errors import InvalidRequest

__all__ = ["COUNTINGS", "REFERENCE", "rows"]

# Budgets of each way to count where none are given. An average has a floor, set by the layers before the first prune.
COUNTINGS: Final = {
    "average": (Fraction(1, 9), Fraction(2, 9), Fraction(1, 3), Fraction(1, 2)),
    "first": (Fraction(1, 18), Fraction(1, 9), Fraction(2, 9), Fraction(1, 3)),
}
REFERENCE: Final = "desap"
# Encoder-side pruner and budget, pruner inside the model, and the average of both together.
COMBINED: Final = (
    ("desap", Fraction(2, 9), "fastv", Fraction(1, 9)),
    ("desap", Fraction(1, 3), "fastv", Fraction(1, 9)),
)


def rows(evaluation: Evaluation, pruners: Sequence[str], budgets: Sequence[Fraction] | None) -> list[dict[str, Any]]:
    """Unpruned, then for each way to count and each budget the reference, the pruners, and what combines both sides.

    A row that cannot reach its budget has no groups, but says in `refused` what the service says.
    """
    base = evaluation.run(Method("none"), "none")
    made = [_row(evaluation, "none", None, Fraction(1), base, base.scores, base.scores)]
    chosen = {counting: budgets or default for counting, default in COUNTINGS.items()}
    reference = {
        budget: evaluation.run(Method(REFERENCE, float(budget)), f"{REFERENCE} {budget}")
        for budget in sorted({budget for some in chosen.values() for budget in some})
    }
    for counting, some in chosen.items():
        for budget in some:
            against = reference[budget]
            made.append(_row(evaluation, REFERENCE, counting, budget, against, base.scores, against.scores))
            methods = {name: Method("none", llm=_inside(name, budget, counting)) for name in pruners}
            if counting == "average":
                methods |= {
                    f"{first} {share}, {name}": Method(first, float(share), llm=_inside(name, budget / share, counting))
                    for first, share, name, average in COMBINED
                    if name in pruners and average == budget
                }
            for label, method in methods.items():
                outcome = _run(evaluation, method, f"{label} {counting} {budget}")
                made.append(_row(evaluation, label, counting, budget, outcome, base.scores, against.scores))
    return made


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
