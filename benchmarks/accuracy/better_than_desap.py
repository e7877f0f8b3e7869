"""`python -m benchmarks.better_than_desap`: whether a pruner is better than DeSAP, on images that nothing was tuned on.

Both pruners and the unpruned model answer the same questions. Differences are paired, 95 % intervals resample whole
images. Prints the verdict, and writes `better_than_desap.json` and `better_than_desap.md` into --out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from benchmarks.accuracy.better_than_desap_report import markdown
from benchmarks.accuracy.evaluation import (
    SPLITS,
    Evaluation,
    Split,
    add_budgets,
    add_evaluation_arguments,
    shipped_system,
)
from benchmarks.accuracy.system import InProcessSystem, Method
from benchmarks.harness.arguments import command_parser
from benchmarks.harness.intervals import Floats, clustered_mean, clustered_ratio
from benchmarks.harness.output import publish
from benchmarks.harness.provenance import provenance
from encoder_service.pruners import PRUNERS
from lab.questions import GROUPS, Question

__all__ = ["main"]


def _row(questions: Sequence[Question], ours: Floats, theirs: Floats, unpruned: Floats) -> dict[str, Any]:
    """Scores, paired difference and share of the unpruned score, for all questions and by group."""
    clusters = np.array([question.scene.seed for question in questions])
    groups = np.array([question.group for question in questions])
    cells = {}
    for name in ("all", *GROUPS):
        rows = np.ones(len(questions), bool) if name == "all" else groups == name
        if rows.any():
            mine, other, base, images = ours[rows], theirs[rows], unpruned[rows], clusters[rows]
            cells[name] = {
                "questions": int(rows.sum()),
                "unpruned": clustered_mean(base, images).summary(),
                "against": clustered_mean(other, images).summary(),
                "score": clustered_mean(mine, images).summary(),
                "difference": clustered_mean(mine - other, images).summary(),
                "of_unpruned": clustered_ratio(mine, base, images).summary(),
            }
    return cells


def _measure(system: InProcessSystem, split: Split, args: argparse.Namespace) -> dict[str, Any]:
    evaluation = Evaluation(system, split, seed=args.seed, num_scenes=args.scenes)

    def scores(pruner: str, budget: Fraction) -> Floats:
        return evaluation.run(Method(pruner, float(budget)), f"{pruner} {budget}").scores

    unpruned = scores("none", Fraction(1))
    rows = []
    for budget in args.budgets:
        ours, theirs = (scores(name, budget) for name in (args.pruner, args.against))
        rows.append({"budget": str(budget), "groups": _row(evaluation.questions, ours, theirs, unpruned)})
    return evaluation.summary(rows)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser("benchmarks.better_than_desap", __doc__)
    parser.add_argument("--pruner", default="fovea", choices=list(PRUNERS), metavar="NAME", help="default: %(default)s")
    parser.add_argument(
        "--against", default="desap", choices=list(PRUNERS), metavar="NAME", help="default: %(default)s"
    )
    add_budgets(parser)
    add_evaluation_arguments(parser, budgets=[Fraction(1, 9)])
    parser.set_defaults(seed=2, scenes=540, splits=list(reversed(SPLITS)))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the tables, and writes them into --out."""
    args = _arguments(argv)
    system = shipped_system()
    try:
        splits = {split: _measure(system, split, args) for split in args.splits}
    finally:
        system.close()
    result = {
        "provenance": provenance("benchmarks.better_than_desap"),
        "pruner": args.pruner,
        "against": args.against,
        "seed": args.seed,
        "splits": splits,
    }
    publish(args.out, "better_than_desap", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
