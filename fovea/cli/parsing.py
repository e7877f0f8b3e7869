"""Parser of a subcommand, and the error of options that do not go together."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from fovea.similar_names import similar_name

__all__ = ["CommandParser", "Commands", "Run", "UsageError", "near_flag", "written_flag"]

Run = Callable[[argparse.Namespace], int]
Commands = Any  # argparse gives the object that adds subcommands no public name

_NEAR: Final = 0.85
"""Likeness from which a flag is taken for a misspelled one."""
_AFTER_DASHES: Final = "put a word that starts with - after --"


class UsageError(Exception):
    """Options or words that do not go together. Ends the command with status 2, like an error of argparse."""


def written_flag(word: str) -> str:
    """The flag of a word of the command line, `--max-tokens` of `--max_tokens=3`; empty for a word that is none."""
    flag = re.match(r"--?[A-Za-z][\w-]*(?=$|[=.])", word)
    return flag[0].replace("_", "-") if flag else ""


def near_flag(flag: str, known: Iterable[str]) -> str:
    """The flag that a misspelled one perhaps stands for; empty if none is near."""
    return similar_name(flag, known, likeness=_NEAR)


class CommandParser(argparse.ArgumentParser):
    """Parser of a subcommand whose positional words may be on both sides of an option.

    The namespace also has `arguments`, all arguments of the subcommand as they were written. A subcommand with
    subcommands of its own leaves its words to them.

    Attributes:
        advice: function from unrecognized arguments, and the namespace of the others, to what to use in their place,
            for the error; None for none.
    """

    advice: Callable[[Sequence[str], argparse.Namespace], str] | None = None
    _mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Namespace, and an empty list. Unrecognized arguments are an error with the usage of this subcommand."""
        if self._mixing or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        arguments = list(args)
        end = arguments.index("--") if "--" in arguments else len(arguments)
        self._mixing = True
        try:
            namespace, left = self.parse_known_intermixed_args(arguments[:end], namespace)
        finally:
            self._mixing = False
        namespace = self._with_words(namespace, left, arguments[end + 1 :])
        namespace.arguments = arguments
        return namespace, []

    def _with_words(
        self, namespace: argparse.Namespace, left: Sequence[str], after: Sequence[str]
    ) -> argparse.Namespace:
        """Adds the arguments after -- as words, even those that start with a dash."""
        takes_words = "words" in namespace
        if not takes_words:
            left, after = [*left, *after], []
        if left:
            hint = self.advice(left, namespace) if self.advice else ""
            hint = hint or self._meant(left) or (_AFTER_DASHES if takes_words else "")
            self.error(f"unrecognized arguments: {' '.join(left)}{f'; {hint}' if hint else ''}")
        if after:
            namespace.words = [*namespace.words, *after]
        return namespace

    @property
    def flags(self) -> list[str]:
        """Flags of this subcommand, those of one letter aside."""
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]

    def _meant(self, words: Sequence[str]) -> str:
        """The option that the first flag perhaps stands for; empty if no word is a flag of more than one letter."""
        flags = [flag for flag in map(written_flag, words) if flag.startswith("--")]
        if not flags:
            return ""
        near = near_flag(flags[0], self.flags)
        return f"did you mean {near}?" if near else f"{self.prog} --help lists the options"
