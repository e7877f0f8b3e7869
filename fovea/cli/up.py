"""`fovea up`: gateway, encoder service and LLM service in the foreground."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

from fovea.api_keys.key_file import read_keys
from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.cli.chosen_settings import refuse_chosen_settings
from fovea.cli.config_file import service_environment
from fovea.cli.default_pruning import default_pruning
from fovea.cli.parsing import Commands, UsageError
from fovea.cli.service_flags import advice
from fovea.cli.start_progress import StartProgress, start_progress
from fovea.cli.terminal import StopSignal
from fovea.cli.unknown_settings import ignored_variables
from fovea.cli.values import listen
from fovea.processes.redis_watch import RedisWatch
from fovea.processes.stack import Stack
from fovea.processes.supervision import Supervisor

__all__ = ["add"]

_STARTUP_S: Final = 600
_MAX_LOG_BYTES: Final = 64 * 2**20  # of earlier runs


def add(commands: Commands) -> None:
    """Adds the subcommand with its options."""
    parser = commands.add_parser(
        "up",
        help="start gateway, encoder service and LLM service; Ctrl-C stops them",
        description="Starts gateway, encoder service and LLM service as three processes; Ctrl-C stops them. A service"
        " that ends is started again.",
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
    parser.add_argument(
        "--log-file",
        metavar="FILE",
        help="file for the services' logs, JSON lines; - is standard error (default: fovea/up-PORT.log in"
        " $XDG_STATE_HOME, or in ~/.local/state)",
    )
    parser.add_argument(
        "--no-restart", action="store_true", help="end when a service ends, instead of starting that service again"
    )
    access = parser.add_mutually_exclusive_group()
    access.add_argument(
        "--keys-file", metavar="FILE", help="clients need an API key of this file; fovea keys add makes one"
    )
    access.add_argument(
        "--allow-anonymous", action="store_true", help="serve everyone without a key, also on an address of the network"
    )
    parser.advice = advice
    parser.set_defaults(run=_run, parser=parser)


def _stack(args: argparse.Namespace) -> Stack:
    """Services with the model of --model, or with the shipped small model.

    Raises:
        UsageError: options do not go together, the configuration file is not accepted, or it or the environment has a
            setting that this command determines.
        CredentialsError: the file of API keys cannot be used.
        NotInstalled: the shipped small model is not there.
    """
    gateway = ["--redis-url", args.redis_url] if args.redis_url else []
    if args.keys_file:
        read_keys(args.keys_file)  # what the gateway would refuse, before three processes are started
        gateway += ["--keys-file", args.keys_file]
    gateway += ["--allow-anonymous"] if args.allow_anonymous else []
    if args.model is None and args.text_tower is not None:
        raise UsageError("--text-tower goes with --model; the shipped small model has its own")
    if args.model is None:
        model, tower, name = str(shipped_checkpoint("llava")), str(shipped_checkpoint("clip")), "fovea-lab"
    else:
        model, tower, name = args.model, args.text_tower, None
    stack = Stack(
        model,
        tower,
        listen=args.listen,
        name=args.served_model_name or name,
        flags={"gateway": gateway},
        environment=service_environment(args.config),
        log_to=_log_file(args.log_file, args.listen),
    )
    refuse_chosen_settings(stack)
    return stack


def _log_file(word: str | None, address: str) -> Path | None:
    """File for the logs, whose folder exists; None for standard error.

    Raises:
        UsageError: the file cannot be written.
    """
    if word == "-":
        return None
    try:
        if word is not None:
            path = Path(word)
        else:
            state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
            path = state / "fovea" / f"up-{address.rpartition(':')[2]}.log"
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size > _MAX_LOG_BYTES:
            path.replace(f"{path}.1")
        path.open("ab").close()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"the log cannot be written: {word or 'the default file'}: {reason}; see --log-file"
        ) from error
    return path


def _run(args: argparse.Namespace) -> int:
    stop = StopSignal()
    stack = _stack(args)
    progress = start_progress()
    try:
        with stack:
            progress.line(f"starting {stack.name or stack.model}; logs in {stack.log_to or 'this output'}")
            for line in ignored_variables(os.environ):
                progress.line(line)
            with progress:
                stack.wait_ready(_STARTUP_S, interrupted=stop.is_set, on_checks=progress.show)
            with stack.client(5) as http:
                pruning = default_pruning(http, stack.variables)
            if pruning:
                progress.line(pruning)
            progress.line(f"ready: {stack.url}   ({stack.url}/docs shows the API; Ctrl-C stops)")
            _watch(stack, stop, progress, restart=not args.no_restart)
            progress.line("stopping")
    except KeyboardInterrupt:
        pass
    return 0


def _watch(stack: Stack, stop: StopSignal, progress: StartProgress, *, restart: bool) -> None:
    """Waits for a signal.

    Raises:
        StackError: a service ended, and is not to be started again.
    """
    supervisor = Supervisor(stack, progress.line)
    with RedisWatch(stack, progress.line) as redis:
        redis.step()
        while not stop.wait(0.5):
            if restart:
                supervisor.step()
            else:
                stack.check()
            redis.step()
