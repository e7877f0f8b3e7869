"""`python -m benchmarks.accuracy`: accuracy of each pruner at each budget, by group of questions.

Every method answers the same questions of the small world, so differences are paired. Intervals (95 %) resample whole
images. Writes `accuracy.json`, `.md` and `.png` (encoder side) and the same of `accuracy_llm` (inside the language
model) into --out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.accuracy import encoder_side_report, llm_side, llm_side_report
from benchmarks.accuracy.evaluation import BUDGETS, Evaluation, add_evaluation_arguments, shipped_system
from benchmarks.accuracy.report import plot_pruners
from benchmarks.accuracy.system import Method
from benchmarks.harness.arguments import command_parser, share
from benchmarks.harness.output import publish
from benchmarks.harness.provenance import provenance
from encoder_service.pruners import PRUNERS
from llm_service.pruners import PRUNERS as LLM_PRUNERS

__all__ = ["main"]


def _encoder_rows(evaluation: Evaluation, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the encoder side: unpruned, then all pruners budget by budget."""
    base = evaluation.run(Method("none"), "none").scores
    rows: list[dict[str, Any]] = [
        {"pruner": "none", "budget": "1", "keep_ratio": 1.0, "groups": evaluation.cell(base, minus_unpruned=base)}
    ]
    for budget in args.budgets or BUDGETS:
        for pruner in args.pruners:
            if pruner != "none":
                scores = evaluation.run(Method(pruner, float(budget)), f"{pruner} {budget}").scores
                groups = evaluation.cell(scores, minus_unpruned=base)
                rows.append({"pruner": pruner, "budget": str(budget), "keep_ratio": float(budget), "groups": groups})
    return rows


def _llm_rows(evaluation: Evaluation, args: argparse.Namespace) -> list[dict[str, Any]]:
    return llm_side.llm_side_rows(evaluation, args.llm_pruners, args.budgets)


@dataclass(frozen=True)
class _Side:
    """Measurement and report of one side."""

    file: str
    rows: Callable[[Evaluation, argparse.Namespace], list[dict[str, Any]]]
    markdown: Callable[[dict[str, Any]], str]
    plot: Callable[[dict[str, Any], Path], None]


SIDES: Final = {
    "encoder": _Side("accuracy", _encoder_rows, encoder_side_report.markdown, plot_pruners),
    "llm": _Side("accuracy_llm", _llm_rows, llm_side_report.markdown, llm_side_report.plot),
}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser("benchmarks.accuracy", __doc__)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--pruners", nargs="+", default=list(PRUNERS), choices=list(PRUNERS), metavar="NAME")
    parser.add_argument(
        "--llm-pruners", nargs="+", default=list(LLM_PRUNERS), choices=list(LLM_PRUNERS), metavar="NAME"
    )
    parser.add_argument(
        "--budgets",
        nargs="+",
        type=share,
        metavar="SHARE",
        help="shares of the visual tokens kept, such as 1/9 (default: 1/18 1/9 2/9 1/3; averages over the layers of the"
        " language model: 1/9 2/9 1/3 1/2)",
    )
    smoke_budgets = [Fraction(1, 2)]  # every pruner inside the language model can reach it
    add_evaluation_arguments(parser, pruners=["desap"], llm_pruners=["fastv"], budgets=smoke_budgets)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the tables, and writes three files for each side into --out."""
    args = _arguments(argv)
    facts = provenance("benchmarks.accuracy")
    system = shipped_system()
    try:
        evaluations = [Evaluation(system, split, seed=args.seed, num_scenes=args.scenes) for split in args.splits]
        for side in (SIDES[name] for name in args.sides):
            splits = {evaluation.split: evaluation.summary(side.rows(evaluation, args)) for evaluation in evaluations}
            result = {"provenance": facts, "seed": args.seed, "splits": splits}
            publish(args.out, side.file, result, side.markdown(result), partial(side.plot, result))
    finally:
        system.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
