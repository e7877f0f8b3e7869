"""`fovea up`: gateway, encoder service and LLM service in the foreground."""

from __future__ import annotations

import argparse
import sys

from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.cli.parsing import Commands, UsageError
from fovea.cli.terminal import stop_event
from fovea.cli.values import listen
from fovea.processes.stack import Stack

__all__ = ["add"]

_STARTUP_S = 600


def add(commands: Commands) -> None:
    """Adds the subcommand with its options."""
    parser = commands.add_parser(
        "up",
        help="start gateway, encoder service and LLM service; Ctrl-C stops them",
        description="Starts gateway, encoder service and LLM service as three processes; Ctrl-C stops them.",
        usage="%(prog)s [options]",
        epilog="The services also read ENCODER_*, LLM_* and GATEWAY_* from the environment: see"
        " python -m encoder_service --help, python -m llm_service --help and python -m gateway --help.",
    )
    parser.add_argument("--model", help="checkpoint directory or hub id (default: the shipped small model)")
    parser.add_argument("--text-tower", metavar="MODEL", help="CLIP checkpoint (default: the family's own)")
    parser.add_argument("--served-model-name", metavar="NAME", help="name under which the model is served")
    parser.add_argument(
        "--listen",
        type=listen,
        default="127.0.0.1:8000",
        metavar="HOST:PORT",
        help="address of the gateway (default: %(default)s)",
    )
    parser.add_argument("--redis-url", metavar="URL", help="cache in this Redis instead of in the gateway's memory")
    access = parser.add_mutually_exclusive_group()
    access.add_argument(
        "--keys-file", metavar="FILE", help="clients need an API key of this file; fovea keys add makes one"
    )
    access.add_argument(
        "--allow-anonymous", action="store_true", help="serve everyone without a key, also on an address of the network"
    )
    parser.set_defaults(run=_run, parser=parser)


def _stack(args: argparse.Namespace) -> Stack:
    """Services with the model of --model, or with the shipped small model."""
    gateway = ["--redis-url", args.redis_url] if args.redis_url else []
    gateway += ["--keys-file", args.keys_file] if args.keys_file else []
    gateway += ["--allow-anonymous"] if args.allow_anonymous else []
    if args.model is None and args.text_tower is not None:
        raise UsageError("--text-tower goes with --model; the shipped small model has its own")
    if args.model is None:
        model, tower, name = str(shipped_checkpoint("llava")), str(shipped_checkpoint("clip")), "fovea-lab"
    else:
        model, tower, name = args.model, args.text_tower, None
    return Stack(model, tower, listen=args.listen, name=args.served_model_name or name, flags={"gateway": gateway})


def _run(args: argparse.Namespace) -> int:
    stop = stop_event()
    try:
        with _stack(args) as stack:
            stack.wait_ready(_STARTUP_S, interrupted=stop.is_set)
            print(f"ready: {stack.url}   ({stack.url}/docs shows the API; Ctrl-C stops)", file=sys.stderr)
            while not stop.wait(0.5):
                stack.check()
    except KeyboardInterrupt:
        pass
    return 0
