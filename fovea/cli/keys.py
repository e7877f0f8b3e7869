"""`fovea keys add | list | revoke`: the file of API keys that the gateway accepts."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final

from fovea.api_keys.key_file import add_line, read_keys, remove_lines
from fovea.api_keys.key_lines import ApiKey, ClientLimits, new_key
from fovea.cli.parsing import Commands
from fovea.cli.values import client_limit, client_name, text
from fovea.rpc.credential_files import CredentialsError

__all__ = ["add"]

_FILE_VARIABLE: Final = "GATEWAY_KEYS_FILE"
_DEFAULT_FILE: Final = "fovea-keys"
_DIGEST_SHOWN: Final = 12
"""Hexadecimal digits of a digest that tell the keys of a name apart."""


def add(commands: Commands) -> None:
    """Adds the subcommand with its own subcommands."""
    parser = commands.add_parser(
        "keys",
        help="add, list and revoke API keys of the gateway",
        description="Adds, lists and revokes API keys in the file that the gateway reads with --keys-file. A running"
        " gateway follows each change.",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION", title="actions")
    _add_add(actions)
    _add_list(actions)
    _add_revoke(actions)


def _add_add(actions: Commands) -> None:
    parser = actions.add_parser(
        "add",
        help="make a key, and print it once",
        description="Makes a key and adds its line to the file. The key is printed to standard output, once: the file"
        " has only its SHA-256. A name that exists gets one more key, with the tenant and limits of its last one.",
        usage="%(prog)s [options] NAME",
    )
    parser.add_argument("name", type=client_name, metavar="NAME", help="name of the client, for limits and audit log")
    _add_file(parser)
    parser.add_argument(
        "--tenant",
        type=client_name,
        metavar="NAME",
        help="clients of one tenant share cached answers (default: the client's name, shared with no other)",
    )
    for option, text_ in {
        "--requests-per-minute": "most questions in a minute",
        "--concurrency": "most questions in progress",
        "--megapixels-per-minute": "most pixels of images in a minute, in millions",
    }.items():
        parser.add_argument(option, type=client_limit, metavar="N", help=f"{text_} (default: the gateway's)")
    parser.set_defaults(run=_run_add, parser=parser)


def _add_list(actions: Commands) -> None:
    parser = actions.add_parser(
        "list",
        help="list names, tenants and limits",
        description="Lists the keys of the file: name, start of the SHA-256, tenant, limits.",
        usage="%(prog)s [options]",
    )
    _add_file(parser)
    parser.set_defaults(run=_run_list, parser=parser)


def _add_revoke(actions: Commands) -> None:
    parser = actions.add_parser(
        "revoke",
        help="remove the keys of a name",
        description="Removes the keys of a name. The gateway refuses them from its next request on.",
        usage="%(prog)s [options] NAME",
    )
    parser.add_argument("name", type=client_name, metavar="NAME", help="name of the client")
    _add_file(parser)
    parser.add_argument(
        "--digest",
        type=text,
        metavar="HEX",
        help="remove only the key whose SHA-256 starts with this, as `fovea keys list` shows it",
    )
    parser.set_defaults(run=_run_revoke, parser=parser)


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file",
        type=Path,
        default=Path(os.environ.get(_FILE_VARIABLE) or _DEFAULT_FILE),
        metavar="FILE",
        help=f"file of keys; also the variable {_FILE_VARIABLE} (default: %(default)s)",
    )


def _run_add(args: argparse.Namespace) -> int:
    given = ClientLimits(args.requests_per_minute, args.concurrency, args.megapixels_per_minute)
    secret, number = "", 0

    def make(keys: list[ApiKey]) -> ApiKey:
        nonlocal secret, number
        before = [key for key in keys if key.name == args.name]
        number = len(before) + 1
        tenant = args.tenant or (before[-1].tenant if before else None)
        limits = given.or_else(before[-1].limits) if before else given
        secret, key = new_key(args.name, tenant=tenant, limits=limits)
        return key

    add_line(args.file, make)
    print(secret)
    print(f"the key of {args.name}, shown this once; its line is in {args.file}", file=sys.stderr)
    if number > 1:
        print(
            f"{args.name} now has {number} keys; once the new one is in use, remove the old one with"
            f" fovea keys revoke {args.name} --digest HEX",
            file=sys.stderr,
        )
    return 0


def _run_list(args: argparse.Namespace) -> int:
    for key in read_keys(args.file):
        print(key.name, key.digest[:_DIGEST_SHOWN], f"tenant={key.tenant}", *key.limits.words)
    return 0


def _run_revoke(args: argparse.Namespace) -> int:
    start = (args.digest or "").lower()
    removed = remove_lines(args.file, lambda key: key.name == args.name and key.digest.startswith(start))
    if not removed:
        which = f" whose SHA-256 starts with {start}" if start else ""
        raise CredentialsError(f"{args.file} has no key of {args.name}{which}")
    print(f"removed {removed} {'key' if removed == 1 else 'keys'} of {args.name} from {args.file}", file=sys.stderr)
    return 0
