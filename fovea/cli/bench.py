"""`fovea bench`: load with images on an OpenAI-compatible endpoint."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Final

from fovea.bench import report
from fovea.bench.endpoint import Endpoint
from fovea.bench.images import FolderImages, ImageSource, NoiseImages
from fovea.bench.measurement import Load, Measurement, Round, measure
from fovea.bench.requests import Question
from fovea.cli.drawing import require_folder
from fovea.cli.options import add_api_key
from fovea.cli.parsing import Commands, UsageError
from fovea.cli.values import count, counts, image_size, json_object, number, text, url
from fovea.client import AnswerError
from fovea.client.form_parts import UnreadableMedium

__all__ = ["add"]

_SECONDS: Final = number("a number of seconds above 0", lambda value: 0 < value <= 86_400)
_REQUESTS: Final = 100
_ROUNDS_OF_SEVERAL: Final = 3


def add(commands: Commands) -> None:
    """Adds the subcommand with its options."""
    parser = commands.add_parser(
        "bench",
        help="measure any OpenAI-compatible endpoint under load with images",
        description="Sends streamed chat completions with images to an OpenAI-compatible endpoint, and reports TTFT,"
        " TPOT, latency, throughput and failures.",
        usage="%(prog)s [options] URL",
        epilog="Exit status 1 if any request failed.",
    )
    parser.add_argument("endpoint", type=url, metavar="URL", help="address of the endpoint, with or without /v1")
    _add_request(parser)
    _add_load(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--json", type=Path, metavar="FILE", help="also write all figures into a file")
    parser.set_defaults(run=_run, parser=parser)


def _add_request(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("requests")
    group.add_argument(
        "--model",
        action="append",
        type=text,
        metavar="NAME",
        help="model (default: the first of /v1/models); may be repeated, then the models take turns and are compared"
        " with the first",
    )
    images = group.add_mutually_exclusive_group()
    images.add_argument("--images", type=Path, metavar="DIR", help="folder whose images are sent, in turns")
    images.add_argument(
        "--image-size",
        type=image_size,
        default=(512, 512),
        metavar="WxH",
        help="size of images of noise, another one in each request (default: 512x512)",
    )
    group.add_argument(
        "--image-format", choices=("jpeg", "png"), default="jpeg", help="format of images of noise (default: jpeg)"
    )
    group.add_argument(
        "--images-per-request", type=count, default=1, metavar="N", help="images of each request (default: 1)"
    )
    group.add_argument(
        "--prompt", type=text, default="What is in the picture?", metavar="TEXT", help="text (default: %(default)s)"
    )
    group.add_argument(
        "--max-tokens", type=count, default=128, metavar="N", help="longest answer, in tokens (default: 128)"
    )
    group.add_argument(
        "--extra-body",
        type=json_object,
        default={},
        metavar="JSON",
        help='further fields of each request, such as {"ignore_eos": true}',
    )
    add_api_key(group)
    group.add_argument(
        "--api-key-env", metavar="VARIABLE", help="or another variable with the API key, for an endpoint of others"
    )
    group.add_argument(
        "--timeout-s", type=_SECONDS, default=300.0, metavar="S", help="deadline of a request (default: 300)"
    )


def _add_load(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("load")
    group.add_argument(
        "--concurrency",
        type=counts,
        default=[1],
        metavar="N[,N...]",
        help="clients that each send the next request after an answer; several numbers are measured one after the"
        " other (default: 1)",
    )
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--requests", type=count, metavar="N", help=f"requests of a model in each round (default: {_REQUESTS})"
    )
    length.add_argument(
        "--duration", type=_SECONDS, metavar="S", help="or seconds in which a round starts requests; it ends with them"
    )
    group.add_argument(
        "--rounds",
        type=count,
        metavar="N",
        help=f"rounds of each model (default: 1, or {_ROUNDS_OF_SEVERAL} with several models)",
    )
    group.add_argument(
        "--warmup",
        type=count,
        metavar="N",
        help="requests of each model that are not counted, before the first round (default: one from each client)",
    )


def _run(args: argparse.Namespace) -> int:
    if args.json:
        require_folder(args.json)
    endpoint = Endpoint(args.endpoint, _api_key(args), args.timeout_s)
    run = Measurement(
        endpoint,
        args.model or [endpoint.first_model()],
        Question(args.prompt, _images(args), args.images_per_request, args.max_tokens, args.extra_body),
        _load(args),
    )
    run.on_round = lambda done: print(_progress(run, done), file=sys.stderr, flush=True)
    complete = False
    try:
        asyncio.run(measure(run))
        complete = True
    finally:
        # Ctrl-C and errors keep what was measured before.
        if run.rounds:
            _write(args, run, complete)
    return 1 if any(done.failures for done in run.rounds) else 0


def _write(args: argparse.Namespace, run: Measurement, complete: bool) -> None:
    print(report.text(run), end="", flush=True)
    if args.json:
        result = report.result(run, args.arguments, complete=complete)
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _api_key(args: argparse.Namespace) -> str | None:
    variable = args.api_key_env
    if variable is None:
        return str(args.api_key) if args.api_key else None
    if not os.environ.get(variable):
        raise UsageError(f"--api-key-env names the variable {variable!r:.80}, which is not set")
    return os.environ[variable].strip()


def _images(args: argparse.Namespace) -> ImageSource:
    if args.images is None:
        return NoiseImages(args.image_size, args.image_format)
    try:
        return FolderImages(args.images)
    except UnreadableMedium as error:
        raise AnswerError(str(error)) from error


def _load(args: argparse.Namespace) -> Load:
    several = len(args.model or []) > 1
    return Load(
        concurrency=args.concurrency,
        requests=None if args.duration else args.requests or _REQUESTS,
        duration_s=args.duration,
        rounds=args.rounds or (_ROUNDS_OF_SEVERAL if several else 1),
        warm_up=args.warmup,
    )


def _progress(run: Measurement, done: Round) -> str:
    return (
        f"concurrency {done.concurrency}, round {done.number + 1} of {run.load.rounds}, {run.models[done.model]}:"
        f" {len(done.completions)} answers in {done.seconds:.1f} s, {len(done.failures)} failed"
    )
