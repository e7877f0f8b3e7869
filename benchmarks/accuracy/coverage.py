"""`python -m benchmarks.coverage`: why DeSAP loses counts and descriptions of crowded images.

For variants of `desap` that change one step each, with 16 of 144 tokens:

* correct answers by group of questions, and the paired difference to `desap`;
* the things of an image: those without any token, tokens on things that have one already, tokens on the background;
* whether a description names a thing, and whether twice, by the number of its tokens;
* counts that are too low and too high.

Then descriptions of images of three objects, by pruner and budget. Intervals (95 %) resample whole images. With --work
the answers of each variant are written into a folder, and an interrupted run goes on there.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.coverage_report import markdown
from benchmarks.accuracy.coverage_variants import VARIANTS
from benchmarks.accuracy.evaluation import shipped_system, with_images
from benchmarks.accuracy.system import ImageQuestion, InProcessSystem, Method
from benchmarks.accuracy.task_map import named_things
from benchmarks.harness.arguments import add_seed, command_parser, positive
from benchmarks.harness.intervals import clustered_mean
from benchmarks.harness.kept_values import kept_value
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from fovea.budget import Budget
from lab.questions import Question, evaluation_questions, normalize, score
from lab.render import label_patches
from lab.scenes import Scene

__all__ = ["main", "named_more_often"]

KEEP: Final = 16
_BASE: Final = "desap"
_GROUPS: Final = ("all", "count", "caption")
_FEW: Final = 3
_FEW_METHODS: Final = (("none", 1.0), *((name, k / 144) for k in (16, 48) for name in ("desap", "uniform", "fovea")))
_MANY: Final = 3  # tokens on a thing from which they are counted together


@dataclass(frozen=True)
class _Run:
    """Answers of a variant to all questions, and the grid positions of the tokens kept for each."""

    answers: list[str]
    kept: list[list[int]]


class _Means:
    """Values that are averaged over images."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[float, int]]] = defaultdict(list)

    def add(self, scene: Scene, **values: float) -> None:
        for name, value in values.items():
            self._values[name].append((float(value), scene.seed))

    def summary(self) -> dict[str, Any]:
        """Mean with its interval and number of values, by name."""
        means = {}
        for name, pairs in sorted(self._values.items()):
            values, scenes = zip(*pairs, strict=True)
            means[name] = {**clustered_mean(np.array(values), np.array(scenes)).summary(), "count": len(values)}
        return means


def _names(answer: str) -> Counter[str]:
    return Counter(normalize(part) for part in answer.split(",") if part.strip())


def named_more_often(scene: Scene, answer: str) -> int:
    """Number of names in a description beyond those that the image has of each name of it."""
    present, named = Counter(thing.name for thing in scene.things), _names(answer)
    return sum(max(0, named[name] - count) for name, count in present.items())


def _answered(work: Path | None, label: str, answer: Callable[[], _Run]) -> _Run:
    """The run of a variant, from the folder if it is there."""

    def compute() -> dict[str, Any]:
        run = answer()
        print(f"{label}: {len(run.answers)} questions", file=sys.stderr, flush=True)
        return vars(run)

    return _Run(**kept_value(work, label, compute))


def _ask(system: InProcessSystem, asked: Sequence[ImageQuestion], label: str) -> _Run:
    encoded = system.encode_pruned(asked, VARIANTS[label], Budget.count(KEEP))
    answers = system.decode(asked, encoded, None)
    return _Run([answer.text for answer in answers], [media.positions.tolist() for media in encoded])


def _tokens_of_things(scene: Scene, labels: npt.NDArray[np.int8], kept: Sequence[int]) -> npt.NDArray[np.int64]:
    on = labels[np.array(kept)]
    return np.array([(on == thing).sum() for thing in range(len(scene.things))])


def _of_captions(questions: Iterable[tuple[Question, str, npt.NDArray[np.int64]]]) -> dict[str, Any]:
    """Use of the tokens, and names by the number of tokens on a thing, over the description questions."""
    use = _Means()
    for question, answer, tokens in questions:
        scene, named = question.scene, _names(answer)
        on_distractors = sum(int(n) for n, thing in zip(tokens, scene.things, strict=True) if thing.distractor)
        use.add(
            scene,
            uncovered=(tokens == 0).mean(),
            repeats=np.maximum(tokens - 1, 0).sum() / KEEP,
            background=1 - tokens.sum() / KEEP,
            distractors=on_distractors / KEEP,
            repeated_names=named_more_often(scene, answer),
        )
        present = Counter(thing.name for thing in scene.things)
        for thing, count in zip(scene.things, tokens, strict=True):
            if present[thing.name] == 1:
                on = min(int(count), _MANY)
                use.add(scene, **{f"named_{on}": named[thing.name] > 0, f"twice_{on}": named[thing.name] > 1})
    return use.summary()


def _of_counts(questions: Iterable[tuple[Question, str, npt.NDArray[np.int64]]]) -> dict[str, Any]:
    """Errors of counts, and correct ones by whether each counted object has a token."""
    errors = _Means()
    for question, answer, tokens in questions:
        said, counted = normalize(answer), named_things(question)
        if said.isdigit():
            errors.add(question.scene, low=int(said) < int(question.answer), high=int(said) > int(question.answer))
        if counted:
            key = "correct_covered" if all(tokens[thing] for thing in counted) else "correct_uncovered"
            errors.add(question.scene, **{key: score(question, answer)})
    return errors.summary()


def _row(questions: Sequence[Question], run: _Run, base: _Run, labels: dict[int, npt.NDArray[np.int8]]) -> Any:
    scores, others = (
        np.array([score(question, answer) for question, answer in zip(questions, part.answers, strict=True)])
        for part in (run, base)
    )
    groups, scenes = (np.array([pick(q) for q in questions]) for pick in (lambda q: q.group, lambda q: q.scene.seed))
    cells = {}
    for group in _GROUPS:
        rows = np.ones(len(scores), bool) if group == "all" else groups == group
        cells[group] = {
            "score": clustered_mean(scores[rows], scenes[rows]).summary(),
            "difference": clustered_mean((scores - others)[rows], scenes[rows]).summary(),
        }

    def of(group: str) -> Iterable[tuple[Question, str, npt.NDArray[np.int64]]]:
        for question, answer, kept in zip(questions, run.answers, run.kept, strict=True):
            if question.group == group:
                yield question, answer, _tokens_of_things(question.scene, labels[question.scene.seed], kept)

    return {"groups": cells, "captions": _of_captions(of("caption")), "counts": _of_counts(of("count"))}


def _few(system: InProcessSystem, args: argparse.Namespace) -> dict[str, Any]:
    """Descriptions of images of three objects."""
    drawn = evaluation_questions("easy", args.seed + 1, args.few_scenes, groups=("caption",))
    questions = [question for question in drawn if len(question.scene.things) == _FEW]
    asked, rows = with_images(questions), []
    for pruner, ratio in _FEW_METHODS:
        method, means = Method(pruner, ratio), _Means()

        def answer(method: Method = method) -> _Run:
            return _Run(system.answers(asked, method), [])

        for question, text in zip(
            questions, _answered(args.work, f"few {pruner} {round(144 * ratio)}", answer).answers, strict=True
        ):
            present, named = Counter(thing.name for thing in question.scene.things), _names(text)
            means.add(
                question.scene,
                f1=score(question, text),
                exact=present == named,
                twice=named_more_often(question.scene, text) > 0,
                missing=bool(present - named),
            )
        rows.append({"pruner": pruner, "keep_tokens": round(144 * ratio), **means.summary()})
    return {"images": len(questions), "rows": rows}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser("benchmarks.coverage", __doc__)
    add_seed(parser, 5, "the evaluation images")
    parser.add_argument("--scenes", type=positive, default=400, help="crowded images (default: %(default)s)")
    parser.add_argument(
        "--few-scenes",
        type=positive,
        default=1200,
        help="easy images, of which those with three objects are described (default: %(default)s)",
    )
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--work", type=Path, metavar="DIR", help="folder for the answers of each variant")
    add_output(parser, scenes=1, few_scenes=8, variants=["none", _BASE])
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the tables, and writes them into --out."""
    args = _arguments(argv)
    questions = evaluation_questions("crowded", args.seed, args.scenes)
    labels = {question.scene.seed: label_patches(question.scene) for question in questions}
    asked, system = with_images(questions), shipped_system()
    try:
        runs = {
            label: _answered(args.work, label, lambda label=label: _ask(system, asked, label))  # type: ignore[misc]
            for label in dict.fromkeys((_BASE, *args.variants))
        }
        few = _few(system, args)
    finally:
        system.close()
    rows = [
        {"variant": label, **({} if label == "none" else {"keep_tokens": KEEP})}
        | _row(questions, run, runs[_BASE], labels)
        for label, run in runs.items()
    ]
    result = {
        "provenance": provenance("benchmarks.coverage"),
        "seed": args.seed,
        "images": args.scenes,
        "questions": len(questions),
        "rows": rows,
        "few": few,
    }
    publish(args.out, "coverage", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
