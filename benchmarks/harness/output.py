"""Output of the benchmarks: --out with the result files, and --smoke, a short form of the run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

__all__ = ["add_output", "publish", "read_result"]

# Parts of keys in older result files, and their current names.
_FORMER_KEYS: Final = {"picture": "image", "per_row": "per_sequence", "asked": "request"}


class _Smoke(argparse.Action):
    """Sets several options at once; options after it on the command line override it."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        assert isinstance(self.const, dict)
        for name, value in self.const.items():
            assert hasattr(namespace, name), name
            setattr(namespace, name, value)


def add_output(parser: argparse.ArgumentParser, **smoke: Any) -> None:
    """Adds --out and, where there is a short form, --smoke.

    Args:
        parser: parser of the benchmark, with its other options.
        smoke: values of those options in the short form, which runs everything in seconds.
    """
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the result files (default: no file is written, the report is only printed)",
    )
    if smoke:
        parser.add_argument(
            "--smoke",
            action=_Smoke,
            nargs=0,
            const=smoke,
            default=argparse.SUPPRESS,
            help="run everything in seconds; the figures mean nothing. Overrides the options before it",
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
        out: folder of the files, created if it is missing; None: no file is written.
        name: name of the files, without suffix.
        result: all figures.
        report: report in Markdown.
        plot: function that draws into the file of a given path.
    """
    print(report)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    # Path.with_suffix would replace the part of the name after a dot.
    (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(report, encoding="utf-8")
    if plot is not None:
        plot(out / f"{name}.png")


def read_result(path: Path) -> Any:
    """The figures of a result file, with current keys. Older files have former keys, such as `picture`."""
    return _with_current_keys(json.loads(path.read_text(encoding="utf-8")))


def _with_current_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {_current_key(key): _with_current_keys(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_current_keys(entry) for entry in value]
    return value


def _current_key(key: str) -> str:
    for former, current in _FORMER_KEYS.items():
        key = key.replace(former, current)
    return key
