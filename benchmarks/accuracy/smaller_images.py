"""`python -m benchmarks.smaller_images`: are chosen tokens better than as many tokens of a smaller image?

Pruners answer the same questions of the small world as two baselines that choose nothing (`smaller_grids.py`):

* `downsample`: the image is shrunk until the tower has K patches; position embeddings are interpolated;
* `pooling`: the features of the whole image are averaged over K areas.

Differences are paired. Intervals (95 %) resample whole images. With --work the scores of each method are written into a
folder, and an interrupted run goes on there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from benchmarks.accuracy.evaluation import (
    Evaluation,
    MethodOutcome,
    Split,
    add_budgets,
    add_evaluation_arguments,
    shipped_system,
)
from benchmarks.accuracy.smaller_grids import BASELINES, encoded
from benchmarks.accuracy.smaller_images_report import markdown
from benchmarks.accuracy.system import InProcessSystem, Method
from benchmarks.harness.arguments import command_parser
from benchmarks.harness.intervals import Floats
from benchmarks.harness.kept_values import kept_value
from benchmarks.harness.output import publish
from benchmarks.harness.provenance import provenance
from encoder_service.models.llava import LlavaEncoder
from fovea.budget import Budget

__all__ = ["AGAINST", "METHODS", "main"]

_Run: TypeAlias = Callable[[Evaluation, LlavaEncoder, Fraction], MethodOutcome]

AGAINST: Final = ("cdpruner", "downsample")
"""Methods to which all others are compared."""


def _pruned(label: str, pruner: str, **params: object) -> _Run:
    def run(evaluation: Evaluation, model: LlavaEncoder, budget: Fraction) -> MethodOutcome:
        return evaluation.run(Method(pruner, float(budget), params), f"{label} {budget}")

    return run


def _baseline(name: str) -> _Run:
    def run(evaluation: Evaluation, model: LlavaEncoder, budget: Fraction) -> MethodOutcome:
        rows, columns = model.vision_tower.grid
        keep = Budget.ratio(float(budget)).resolve(rows * columns)
        return evaluation.run_encoded(f"{name} {budget}", partial(encoded, model, BASELINES[name], keep))

    return run


METHODS: Final[dict[str, _Run]] = {
    **{name: _pruned(name, name) for name in ("desap", "fovea", "uniform", "cdpruner")},
    "cdpruner, w = 0.5": _pruned("cdpruner, w = 0.5", "cdpruner", relevance_weight=0.5),
    **{name: _baseline(name) for name in BASELINES},
}


def _outcome(work: Path | None, name: str, run: Callable[[], MethodOutcome]) -> MethodOutcome:
    """The outcome of a method, from the folder if it is there."""

    def compute() -> dict[str, Any]:
        outcome = run()
        return {"scores": outcome.scores.tolist(), "visual_tokens": outcome.visual_tokens}

    value = kept_value(work, name, compute)
    return MethodOutcome(np.array(value["scores"]), value["visual_tokens"])


def _row(evaluation: Evaluation, name: str, budget: str, outcome: MethodOutcome, **others: Floats) -> dict[str, Any]:
    return {
        "method": name,
        "budget": budget,
        "visual_tokens": outcome.visual_tokens,
        "groups": evaluation.cell(outcome.scores, **others),
    }


def _measure(system: InProcessSystem, split: Split, args: argparse.Namespace) -> dict[str, Any]:
    evaluation, model = Evaluation(system, split, seed=args.seed, num_scenes=args.scenes), system.encoder_model
    assert isinstance(model, LlavaEncoder)
    folder = None if args.work is None else args.work / f"{split}_{args.seed}_{args.scenes}"
    base = _outcome(folder, "none", partial(evaluation.run, Method("none"), "none"))
    rows = [_row(evaluation, "none", "1", base, minus_unpruned=base.scores)]
    for budget in args.budgets:
        outcomes = {
            name: _outcome(folder, f"{name} {budget}", partial(METHODS[name], evaluation, model, budget))
            for name in dict.fromkeys((*args.methods, *AGAINST))
        }
        others = {f"minus_{name}": outcomes[name].scores for name in AGAINST} | {"minus_unpruned": base.scores}
        rows += [_row(evaluation, name, str(budget), outcome, **others) for name, outcome in outcomes.items()]
    return evaluation.summary(rows)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser("benchmarks.smaller_images", __doc__)
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        choices=list(METHODS),
        metavar="NAME",
        help=f"of {'; '.join(METHODS)}; {' and '.join(AGAINST)} are always added (default: all)",
    )
    add_budgets(parser)
    parser.add_argument("--work", type=Path, metavar="DIR", help="folder for the scores of each method")
    add_evaluation_arguments(parser, methods=["cdpruner"], budgets=[Fraction(1, 9)])
    parser.set_defaults(seed=7, scenes=250)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the tables, and writes them into --out."""
    args = _arguments(argv)
    facts = provenance("benchmarks.smaller_images")
    system = shipped_system()
    try:
        splits = {split: _measure(system, split, args) for split in args.splits}
    finally:
        system.close()
    result = {"provenance": facts, "seed": args.seed, "splits": splits}
    publish(args.out, "smaller_images", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
