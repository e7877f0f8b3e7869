"""The `fovea` command: the parser of its subcommands, and the exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from fovea import __version__
from fovea.checkpoints.shipped import NotInstalled
from fovea.cli import ask, bench, chat, completion, demo, doctor, explain, keys, up
from fovea.cli.config_file import ConfigError, add_config, with_config
from fovea.cli.connection import describe
from fovea.cli.parsing import CommandParser, UsageError
from fovea.cli.terminal import BROKEN_PIPE, INTERRUPTED, printing
from fovea.client import AnswerError
from fovea.processes.stack import StackError
from fovea.rpc.credential_files import CredentialsError

__all__ = ["main"]


_WITHOUT_CONFIG: Final = ("keys", "completion")


def _parser() -> tuple[argparse.ArgumentParser, dict[str, CommandParser]]:
    """The parser, and those of the commands that take a configuration file, by name."""
    parser = argparse.ArgumentParser(
        prog="fovea",
        description="Answers questions about images and videos.",
        epilog="fovea COMMAND --help lists the options of a command. Exit status: 0 done, 1 it failed, 2 the command"
        " line is wrong, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"fovea {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=CommandParser, title="commands")
    for module in (up, ask, chat, explain, demo, bench, doctor, keys):
        module.add(commands)
    completion.add(commands, parser)
    configured = {name: command for name, command in commands.choices.items() if name not in _WITHOUT_CONFIG}
    for command in configured.values():
        add_config(command)
    return parser, configured


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    parser, configured = _parser()
    if argv and argv[0] == "serve":  # vLLM's command
        parser.error("there is no command 'serve'; fovea up --model MODEL starts the services")
    try:
        return parser.parse_args(with_config(argv, configured))
    except ConfigError as error:
        configured[argv[0]].error(str(error))


def _run(args: argparse.Namespace) -> int:
    try:
        status: int = args.run(args)
        return status
    except UsageError as error:
        args.parser.print_usage(sys.stderr)
        print(f"{args.parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except (AnswerError, CredentialsError, NotInstalled, StackError) as error:
        print(f"fovea: {describe(error, getattr(args, 'api_key', None))}", file=sys.stderr)
        return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `fovea` command; returns the exit status.

    Raises:
        SystemExit: the command line is wrong; status 2.
    """
    try:
        with printing():
            return _run(_parsed(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE
    except OSError as error:  # an output file cannot be written: full disk, missing permission
        print(f"fovea: {error.filename or 'the output'}: {error.strerror or error}", file=sys.stderr)
        return 1
