"""`fovea demo`: everything once, on the shipped model and image."""

from __future__ import annotations

import argparse

from fovea.cli.drawing import require_folder
from fovea.cli.parsing import Commands
from fovea.cli.terminal import stop_event
from fovea.cli.values import image_file
from fovea.demo import run_demo

__all__ = ["add"]


def add(commands: Commands) -> None:
    """The subcommand with its options."""
    parser = commands.add_parser(
        "demo",
        help="start everything, ask the shipped image's questions, stop",
        description="Starts the three services on the shipped model, asks the shipped image's questions, stops them.",
        usage="%(prog)s [options]",
    )
    parser.add_argument(
        "--overlay", type=image_file, metavar="PNG", help="draw the kept patches of the first question into a file"
    )
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    if args.overlay:
        require_folder(args.overlay)
    return run_demo(overlay=args.overlay, interrupted=stop_event().is_set)
