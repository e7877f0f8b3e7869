"""`python -m benchmarks.better_than_desap`: is a pruner better than DeSAP, on questions that nothing was tuned on?

Both answer the same fresh questions, as does the unpruned model. Differences are paired, 95 % intervals resample whole
pictures. Prints the verdict, and writes `better_than_desap.json` and `better_than_desap.md` into --out.
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

from benchmarks.better_report import markdown
from benchmarks.intervals import Floats, Interval, clustered_mean, clustered_ratio
from benchmarks.provenance import provenance
from benchmarks.system import Asked, Method, System
from encoder_service.pruners import PRUNERS
from fovea.stack import shipped_checkpoint
from lab.questions import GROUPS, Question, evaluation_questions, score

__all__ = ["main"]

_SPLITS: Final = ("crowded", "easy")


def _asked(questions: Sequence[Question]) -> list[Asked]:
    drawn: dict[int, bytes] = {}
    for question in questions:
        if question.scene.seed not in drawn:
            file = io.BytesIO()
            question.image.save(file, "PNG")
            drawn[question.scene.seed] = file.getvalue()
    return [Asked(drawn[question.scene.seed], question.text) for question in questions]


def _summary(interval: Interval) -> dict[str, float]:
    return {name: round(value, 6) for name, value in vars(interval).items()}


def _row(questions: Sequence[Question], ours: Floats, theirs: Floats, unpruned: Floats) -> dict[str, Any]:
    """Scores, paired difference and share of the unpruned score, over all questions and by group."""
    clusters = np.array([question.scene.seed for question in questions])
    groups = np.array([question.group for question in questions])
    cells = {}
    for name in ("all", *GROUPS):
        rows = np.ones(len(questions), bool) if name == "all" else groups == name
        if rows.any():
            mine, other, base, pictures = ours[rows], theirs[rows], unpruned[rows], clusters[rows]
            cells[name] = {
                "questions": int(rows.sum()),
                "unpruned": _summary(clustered_mean(base, pictures)),
                "against": _summary(clustered_mean(other, pictures)),
                "score": _summary(clustered_mean(mine, pictures)),
                "difference": _summary(clustered_mean(mine - other, pictures)),
                "of_unpruned": _summary(clustered_ratio(mine, base, pictures)),
            }
    return cells


def _measure(system: System, split: str, args: argparse.Namespace) -> dict[str, Any]:
    questions = evaluation_questions(split, args.seed, args.scenes)  # type: ignore[arg-type]  # one of _SPLITS
    asked = _asked(questions)

    def scores(method: Method) -> Floats:
        start = time.perf_counter()
        texts = system.answers(asked, method)
        got = np.array([score(question, text) for question, text in zip(questions, texts, strict=True)])
        print(
            f"{split:<8} {method.pruner:<8} keep {method.keep_ratio:.3f}: {100 * got.mean():5.1f} %"
            f"  ({len(asked)} questions, {time.perf_counter() - start:.0f} s)",
            file=sys.stderr,
            flush=True,
        )
        return got

    unpruned = scores(Method("none"))
    rows = []
    for budget in args.budgets:
        ours, theirs = (scores(Method(name, float(budget))) for name in (args.pruner, args.against))
        rows.append({"budget": str(budget), "groups": _row(questions, ours, theirs, unpruned)})
    return {"pictures": args.scenes, "questions": len(questions), "rows": rows}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.better_than_desap", description=__doc__)
    parser.add_argument("--pruner", default="fovea", choices=list(PRUNERS), metavar="NAME", help="default: %(default)s")
    parser.add_argument(
        "--against", default="desap", choices=list(PRUNERS), metavar="NAME", help="default: %(default)s"
    )
    parser.add_argument(
        "--budgets",
        nargs="+",
        type=Fraction,
        default=[Fraction(1, 18), Fraction(1, 9), Fraction(2, 9), Fraction(1, 3)],
        metavar="SHARE",
        help="shares of the visual tokens kept (default: 1/18 1/9 2/9 1/3)",
    )
    parser.add_argument("--seed", type=int, default=2, help="of the evaluation pictures (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=540, help="pictures a split (default: %(default)s)")
    parser.add_argument("--splits", nargs="+", default=list(_SPLITS), choices=_SPLITS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    args = parser.parse_args(argv)
    if not all(0 < budget <= 1 for budget in args.budgets):
        parser.error("--budgets: a share is above 0 and at most 1")
    if args.scenes < 1:
        parser.error("--scenes: at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints the Markdown tables and writes the two files."""
    args = _arguments(argv)
    system = System(shipped_checkpoint("llava"), shipped_checkpoint("clip"))
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
    text = markdown(result)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "better_than_desap.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (args.out / "better_than_desap.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
