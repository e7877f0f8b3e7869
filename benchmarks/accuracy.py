"""`python -m benchmarks.accuracy`: how much accuracy each pruner keeps at each budget, by group of questions.

Every method answers the same fresh questions of the small world, so differences are paired; intervals (95 %) resample
whole pictures. Writes `accuracy.json`, `accuracy.md` and `accuracy.png` into --out.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.accuracy_report import markdown, plot
from benchmarks.intervals import Floats, Interval, clustered_mean
from benchmarks.provenance import provenance
from benchmarks.system import Asked, Method, System
from encoder_service.pruners import PRUNERS
from fovea.stack import shipped_checkpoint
from lab.questions import GROUPS, Question, evaluation_questions, score

__all__ = ["main"]

SPLITS: Final = ("easy", "crowded")


def _png(question: Question) -> bytes:
    file = io.BytesIO()
    question.image.save(file, "PNG")
    return file.getvalue()


def _asked(questions: Sequence[Question]) -> list[Asked]:
    drawn: dict[int, bytes] = {}
    for question in questions:
        if question.scene.seed not in drawn:
            drawn[question.scene.seed] = _png(question)
    return [Asked(drawn[question.scene.seed], question.text) for question in questions]


def _summary(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _cell(scores: Floats, base: Floats, questions: Sequence[Question]) -> dict[str, Any]:
    """Score and paired difference to unpruned, over all questions and by group."""
    clusters = np.array([question.scene.seed for question in questions])
    groups = np.array([question.group for question in questions])
    cell: dict[str, Any] = {}
    for name in ("all", *GROUPS):
        rows = np.ones(len(questions), bool) if name == "all" else groups == name
        if rows.any():
            cell[name] = {
                "questions": int(rows.sum()),
                "score": _summary(clustered_mean(scores[rows], clusters[rows])),
                "minus_unpruned": _summary(clustered_mean(scores[rows] - base[rows], clusters[rows])),
            }
    return cell


def _measure(system: System, split: str, args: argparse.Namespace) -> dict[str, Any]:
    questions = evaluation_questions(split, args.seed, args.scenes)  # type: ignore[arg-type]  # one of SPLITS
    asked = _asked(questions)

    def scores(method: Method) -> Floats:
        start = time.perf_counter()
        texts = system.answers(asked, method)
        got = np.array([score(question, text) for question, text in zip(questions, texts, strict=True)])
        took = time.perf_counter() - start
        print(
            f"{split:<8} {method.pruner:<8} keep {method.keep_ratio:.3f}: {100 * got.mean():5.1f} %"
            f"  ({len(asked)} questions, {took:.0f} s)",
            file=sys.stderr,
            flush=True,
        )
        return got

    base = scores(Method("none"))
    rows = [{"pruner": "none", "budget": "1", "keep_ratio": 1.0, "groups": _cell(base, base, questions)}]
    for budget in args.budgets:
        for pruner in args.pruners:
            if pruner != "none":
                cell = _cell(scores(Method(pruner, float(budget))), base, questions)
                rows.append({"pruner": pruner, "budget": str(budget), "keep_ratio": float(budget), "groups": cell})
    return {"pictures": args.scenes, "questions": len(questions), "rows": rows}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--pruners", nargs="+", default=list(PRUNERS), choices=list(PRUNERS), metavar="NAME")
    parser.add_argument(
        "--budgets",
        nargs="+",
        type=Fraction,
        default=[Fraction(1, 18), Fraction(1, 9), Fraction(2, 9), Fraction(1, 3)],
        metavar="SHARE",
        help="shares of the visual tokens kept, such as 1/9 (default: 1/18 1/9 2/9 1/3)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the evaluation pictures (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=500, help="pictures a split (default: %(default)s)")
    parser.add_argument("--splits", nargs="+", default=list(SPLITS), choices=SPLITS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    args = parser.parse_args(argv)
    if not all(0 < budget <= 1 for budget in args.budgets):
        parser.error("--budgets: a share is above 0 and at most 1")
    if args.scenes < 1:
        parser.error("--scenes: at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints the Markdown table and writes the three files."""
    args = _arguments(argv)
    system = System(shipped_checkpoint("llava"), shipped_checkpoint("clip"))
    try:
        splits = {split: _measure(system, split, args) for split in args.splits}
    finally:
        system.close()
    result = {"provenance": provenance("benchmarks.accuracy"), "seed": args.seed, "splits": splits}
    text = markdown(result)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "accuracy.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (args.out / "accuracy.md").write_text(text, encoding="utf-8")
    plot(result, args.out / "accuracy.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
