"""Command-line arguments of the benchmarks: the parser, --seed, and types whose errors list the accepted values.

--out and --smoke are in `output.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

__all__ = ["add_seed", "command_parser", "count", "existing_file", "number", "positive", "share"]


def command_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m <module>`; the line breaks of the description are kept."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_seed(parser: argparse.ArgumentParser, default: int, what: str) -> None:
    """Adds --seed, the seed of `what`."""
    parser.add_argument("--seed", type=int, default=default, help=f"seed of {what} (default: %(default)s)")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not accepted; a whole number of at least 1")
    return value


def share(text: str) -> Fraction:
    """A share, such as 0.25 or 1/9."""
    try:
        value = Fraction(text)
    except ZeroDivisionError:
        value = Fraction(0)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError("a share is above 0 and at most 1, such as 0.25 or 1/9")
    return value


def number(least: float, most: float = 1e9) -> Callable[[str], float]:
    """The type of a number between two bounds, which are part of the error text."""

    def read(text: str) -> float:
        value = float(text)
        if not least <= value <= most:  # also refuses NaN
            raise argparse.ArgumentTypeError(f"{text} is not {least:g} to {most:g}")
        return value

    return read


def count(most: int = 10**6) -> Callable[[str], int]:
    """The type of a whole number from 1 to `most`."""
    bounded = number(1, most)
    return lambda text: int(bounded(str(int(text))))


def existing_file(text: str) -> Path:
    """The path of a file that exists."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return Path(text)
