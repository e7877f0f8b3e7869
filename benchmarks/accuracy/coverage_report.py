"""The report of `benchmarks.coverage`."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.accuracy.report import head
from benchmarks.harness.tables import points, signed_points, table

__all__ = ["markdown"]

_TOKENS: Final = ("0", "1", "2", "3 or more")


def _cell(means: dict[str, Any], name: str) -> str:
    return points(means[name]) if name in means else ""


def _with_count(means: dict[str, Any], name: str) -> str:
    return f"{points(means[name])} ({means[name]['count']})" if name in means else ""


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    rows = result["rows"]
    pruned = [row for row in rows if row["variant"] != "none"]
    scores = [
        [
            row["variant"],
            *(
                cell
                for group in row["groups"].values()
                for cell in (points(group["score"]), signed_points(group["difference"]))
            ),
        ]
        for row in rows
    ]
    header = ["variant", *(cell for group in rows[0]["groups"] for cell in (group, f"{group} - desap"))]
    uses = ("uncovered", "repeats", "background", "distractors")
    use = [[row["variant"], *(_cell(row["captions"], name) for name in uses)] for row in pruned]
    names = [
        [row["variant"], *(_with_count(row["captions"], f"{what}_{on}") for on in range(len(_TOKENS)))]
        for what in ("named", "twice")
        for row in pruned
    ]
    half = len(pruned)
    counts = [
        [
            row["variant"],
            *(_cell(row["counts"], name) for name in ("low", "high")),
            *(_with_count(row["counts"], name) for name in ("correct_covered", "correct_uncovered")),
        ]
        for row in pruned
    ]
    few = result["few"]
    few_rows = [
        [row["pruner"], str(row["keep_tokens"]), *(_cell(row, name) for name in ("f1", "exact", "twice", "missing"))]
        for row in few["rows"]
    ]
    by_tokens = ["variant", *(f"{count} tokens" for count in _TOKENS)]
    return (
        f"{head('Why DeSAP loses counts and descriptions of crowded images', result)}"
        f"{result['questions']} questions on {result['images']} crowded images, 16 of 144 tokens kept. In per cent with"
        " 95 % intervals; differences are paired, in points.\n\n## Correct answers\n\n"
        f"{table(header, scores, num_labels=1)}\n## Where the tokens are\n\nDescription questions: share of the things"
        " (objects and distractors) that have no token; shares of the tokens that lie on a thing which has another"
        " token already, on the background, and on distractors.\n\n"
        f"{table(['variant', 'things without a token', 'repeats', 'background', 'distractors'], use, num_labels=1)}\n"
        "## Things that a description names, by the number of their tokens\n\nThings whose name is unique in the image;"
        f" their number in brackets.\n\n{table(by_tokens, names[:half], num_labels=1)}\n"
        f"Named more than once:\n\n{table(by_tokens, names[half:], num_labels=1)}\n"
        "## Counts\n\nAnswers that are too low and too high; correct ones where each counted object has a token, and"
        " where one has none (number of questions in brackets).\n\n"
        f"{table(['variant', 'too low', 'too high', 'correct, all covered', 'correct, not all'], counts, num_labels=1)}"
        f"\n## Images of three objects\n\nDescriptions of {few['images']} images with three objects: F1 of the names,"
        " descriptions that are exactly right, that name a thing more often than it is there, and that leave one"
        " out.\n\n" + table(["pruner", "tokens", "F1", "exact", "named twice", "one missing"], few_rows, num_labels=2)
    )
