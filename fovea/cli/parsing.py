"""Parsers of subcommands, and mistakes that only a subcommand can see."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["CommandParser", "Commands", "Run", "UsageError"]

Run = Callable[[argparse.Namespace], int]
Commands = Any  # argparse gives the object that adds subcommands no public name


class UsageError(Exception):
    """Options or words that do not go together; ends like a mistake that argparse finds, with status 2."""


class CommandParser(argparse.ArgumentParser):
    """Parser of a subcommand. Its words may stand on both sides of an option."""

    _mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Namespace, and an empty list: what is left over is an error here, with the usage of this subcommand."""
        if self._mixing:
            return super().parse_known_args(args, namespace)
        given = list(args)
        end = given.index("--") if "--" in given else len(given)
        self._mixing = True
        try:
            namespace, left = self.parse_known_intermixed_args(given[:end], namespace)
        finally:
            self._mixing = False
        return self._with_words(namespace, left, given[end + 1 :]), []

    def _with_words(
        self, namespace: argparse.Namespace, left: Sequence[str], after: Sequence[str]
    ) -> argparse.Namespace:
        """What stands after -- is words, whatever it looks like."""
        takes_words = "words" in namespace
        if not takes_words:
            left, after = [*left, *after], []
        if left:
            hint = "; a word that starts with - stands after --" if takes_words else ""
            self.error(f"unrecognized arguments: {' '.join(left)}{hint}")
        if after:
            namespace.words = [*namespace.words, *after]
        return namespace
