"""What the command lines of all benchmarks have: results only where --out says, and a short form of the run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["add_output", "publish"]


class _Smoke(argparse.Action):
    """Sets several options at once; what stands behind it on the command line still counts."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        assert isinstance(self.const, dict)
        for name, value in self.const.items():
            assert hasattr(namespace, name), name
            setattr(namespace, name, value)


def add_output(parser: argparse.ArgumentParser, **smoke: Any) -> None:
    """Options --out and, where there is a short form, --smoke.

    Args:
        parser: of the benchmark, after its other options.
        smoke: values of those options in the short form, which shows in seconds that everything runs.
    """
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the results (left out: the report is printed, no file is written)",
    )
    if smoke:
        parser.add_argument(
            "--smoke",
            action=_Smoke,
            nargs=0,
            const=smoke,
            default=argparse.SUPPRESS,
            help="run everything in seconds; the figures mean nothing. Overrides what stands before it",
        )


def publish(
    out: Path | None,
    name: str,
    result: dict[str, Any],
    report: str,
    plot: Callable[[Path], object] | None = None,
) -> None:
    """Prints the report; with a folder also writes NAME.json and NAME.md, and NAME.png where there is a plot.

    Args:
        out: the folder, made if it is missing; None: nothing is written.
        name: of the files, without suffix.
        result: all figures.
        report: Markdown.
        plot: draws into the file whose path it is given.
    """
    print(report)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    # Not Path.with_suffix, which takes a point in a name for one.
    (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(report, encoding="utf-8")
    if plot is not None:
        plot(out / f"{name}.png")
