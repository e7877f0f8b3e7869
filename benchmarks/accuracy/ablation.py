"""`python -m benchmarks.ablation NAME`: the ablations of DeSAP's paper (arXiv 2604.11240), in the small world.

* `task_share`: table 4 (a), the share of the budget that the task map chooses; saliency chooses the rest;
* `attention_source`: table 4 (b), the sources of query, key and value in the decoupled layer;
* `alignment`: table 5, similarity with and without fine-grained alignment (FCMA); the task map chooses everything;
* `budget_sweep`: figure 5, several pruners over the share of tokens kept.

All rows answer the same questions, so differences are paired. Intervals (95 %) resample whole images. Writes
`ablation_NAME.json` and `.md` into --out, and a plot of the sweep.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any, Final

from benchmarks.accuracy import ablation_report, published
from benchmarks.accuracy.evaluation import Evaluation, add_evaluation_arguments, shipped_system
from benchmarks.accuracy.report import plot_pruners
from benchmarks.accuracy.system import Method
from benchmarks.harness.arguments import command_parser, share
from benchmarks.harness.output import publish
from benchmarks.harness.provenance import provenance
from encoder_service.pruners import PRUNERS

__all__ = ["ABLATIONS", "SWEEP", "main"]

SWEEP: Final = "budget_sweep"
SWEEP_BUDGETS: Final = tuple(map(Fraction, ("0.05", "0.1", "0.15", "0.25", "0.35", "0.5", "0.75")))
SWEEP_PRUNERS: Final = ("desap", "visionzip", "flowcut", "holov", "hired", "uniform", "random")


@dataclass(frozen=True)
class Variant:
    """One setting of DeSAP, with the figures that the paper reports of it, if any."""

    label: str
    params: Mapping[str, object]
    published: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ablation:
    """One table of the paper; differences are to the variant labelled `default`."""

    title: str
    note: str
    default: str
    variants: Sequence[Variant]


def _alignment(label: str, published_as: str, **params: object) -> Variant:
    return Variant(label, {"task_share": 1.0, **params}, published.ALIGNMENT[published_as])


ABLATIONS: Final = {
    "task_share": Ablation(
        "DeSAP's shares of question and saliency (table 4 a)",
        "The share of the budget that the task map chooses (the paper's T); saliency chooses the rest (S).",
        "0.5",
        [Variant(label, {"task_share": float(label)}, figures) for label, figures in published.TASK_SHARE.items()],
    ),
    "attention_source": Ablation(
        "DeSAP's decoupled attention (table 4 b)",
        "Sources of query, key and value in the decoupled layer. `qkv` is the layer's ordinary attention without its"
        " residual and FFN.",
        "qqv",
        [Variant(name, {"attn_variant": name}, figures) for name, figures in published.ATTENTION_SOURCE.items()],
    ),
    "alignment": Ablation(
        "DeSAP's similarity and alignment (table 5)",
        "The task map chooses the whole budget (`task_share` 1), as in the paper's figures. Without alignment a patch"
        " scores by the mean over the words. The paper states alignment on signed cosines; ours takes them from 0 to 1"
        " by default (ADR 7), so its figures stand beside both.",
        "decoupled + alignment",
        [
            _alignment("vanilla", "Vanilla-Simi", similarity="vanilla", fcma=False),
            _alignment("vanilla + alignment", "Vanilla-Simi + alignment", similarity="vanilla"),
            _alignment(
                "vanilla + alignment, signed", "Vanilla-Simi + alignment", similarity="vanilla", fcma_cosines="signed"
            ),
            _alignment("decoupled", "De-Simi", fcma=False),
            _alignment("decoupled + alignment", "De-Simi + alignment"),
            _alignment("decoupled + alignment, signed", "De-Simi + alignment", fcma_cosines="signed"),
            Variant("all defaults, half by saliency", {}),
        ],
    ),
}


def _table_rows(evaluation: Evaluation, ablation: Ablation, budget: Fraction) -> list[dict[str, Any]]:
    base = evaluation.run(Method("none"), "unpruned").scores
    scores = {
        variant.label: evaluation.run(Method("desap", float(budget), variant.params), variant.label).scores
        for variant in ablation.variants
    }
    default = scores[ablation.default]
    rows = [{"variant": "unpruned", "groups": evaluation.cell(base, minus_default=default)}]
    for variant in ablation.variants:
        groups = evaluation.cell(scores[variant.label], minus_default=default)
        rows.append(
            {"variant": variant.label, "params": variant.params, "published": variant.published, "groups": groups}
        )
    return rows


def _sweep_rows(evaluation: Evaluation, pruners: Sequence[str], budgets: Sequence[Fraction]) -> list[dict[str, Any]]:
    base = evaluation.run(Method("none"), "unpruned").scores
    rows: list[dict[str, Any]] = [
        {"pruner": "none", "keep_ratio": 1.0, "groups": evaluation.cell(base, minus_unpruned=base)}
    ]
    for ratio in map(float, budgets):
        desap = evaluation.run(Method("desap", ratio), f"desap {ratio:.3g}").scores
        for pruner in dict.fromkeys(("desap", *pruners)):
            scores = desap
            if pruner != "desap":
                scores = evaluation.run(Method(pruner, ratio), f"{pruner} {ratio:.3g}").scores
            groups = evaluation.cell(scores, minus_unpruned=base, minus_desap=desap)
            rows.append({"pruner": pruner, "keep_ratio": ratio, "groups": groups})
    return rows


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser("benchmarks.ablation", __doc__)
    names = [*ABLATIONS, SWEEP]
    parser.add_argument("names", nargs="+", choices=names, metavar="NAME", help=f"one or more of {', '.join(names)}")
    parser.add_argument(
        "--budget",
        type=share,
        default=Fraction(1, 9),
        help="share of tokens kept in the tables (default: %(default)s)",
    )
    parser.add_argument(
        "--budgets",
        nargs="+",
        type=share,
        default=list(SWEEP_BUDGETS),
        metavar="SHARE",
        help="shares of tokens kept in the sweep",
    )
    parser.add_argument(
        "--pruners",
        nargs="+",
        default=list(SWEEP_PRUNERS),
        choices=[name for name in PRUNERS if name != "none"],
        metavar="NAME",
        help=f"pruners of the sweep; desap is always added (default: {' '.join(SWEEP_PRUNERS)})",
    )
    add_evaluation_arguments(parser, budgets=[Fraction(1, 9)], pruners=["random"])
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures the ablations named; prints their tables, and writes them into --out."""
    args = _arguments(argv)
    facts = provenance("benchmarks.ablation")
    system = shipped_system()
    try:
        evaluations = [Evaluation(system, split, seed=args.seed, num_scenes=args.scenes) for split in args.splits]
        for name in args.names:
            splits = {}
            for evaluation in evaluations:
                if name == SWEEP:
                    rows = _sweep_rows(evaluation, args.pruners, args.budgets)
                else:
                    rows = _table_rows(evaluation, ABLATIONS[name], args.budget)
                splits[evaluation.split] = evaluation.summary(rows)
            result = {"provenance": facts, "seed": args.seed, "ablation": name, "splits": splits}
            plot = None
            if name == SWEEP:
                text = ablation_report.sweep_markdown(result)
                plot = partial(plot_pruners, result)
            else:
                ablation = ABLATIONS[name]
                result |= {"budget": str(args.budget), "default": ablation.default}
                text = ablation_report.markdown(result, title=ablation.title, note=ablation.note)
            publish(args.out, f"ablation_{name}", result, text, plot)
    finally:
        system.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
