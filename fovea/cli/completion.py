"""`fovea completion`: script that completes commands and options in a shell."""

from __future__ import annotations

import argparse
from typing import Final

from fovea.cli.parsing import Commands, UsageError

__all__ = ["add"]

_SHELLS: Final = ("bash", "zsh")


def add(commands: Commands, root: argparse.ArgumentParser) -> None:
    """Adds the subcommand.

    Args:
        commands: object that adds subcommands.
        root: parser of all commands, which the script completes.
    """
    parser = commands.add_parser(
        "completion",
        help="print a script that completes commands and options in a shell",
        description="Prints a script that completes commands and options. For bash: source <(fovea completion bash) in"
        " ~/.bashrc. It needs the package shtab: pip install 'fovea[cli]'.",
        usage="%(prog)s [options] SHELL",
    )
    parser.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=", ".join(_SHELLS))
    parser.set_defaults(run=lambda args: _run(args, root), parser=parser)


def _run(args: argparse.Namespace, root: argparse.ArgumentParser) -> int:
    try:
        import shtab
    except ImportError as error:
        raise UsageError("the package shtab is missing: pip install 'fovea[cli]'") from error
    print(shtab.complete(root, args.shell))
    return 0
