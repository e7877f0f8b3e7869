"""`fovea up | ask | demo`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fovea import __version__
from fovea.client import AnswerError, ask
from fovea.demo import run_demo
from fovea.overlay import draw_kept
from fovea.stack import Stack, StackError, shipped_checkpoint

__all__ = ["main"]

_STARTUP_S = 600


def _stack(args: argparse.Namespace) -> Stack:
    """The shipped small model unless --model names another."""
    flags = {"gateway": ["--redis-url", args.redis_url]} if args.redis_url else {}
    if args.model is None and args.text_tower is not None:
        raise StackError("--text-tower goes with --model; the shipped small model has its own")
    if args.model is None:
        model, tower, name = str(shipped_checkpoint("llava")), str(shipped_checkpoint("clip")), "fovea-lab"
    else:
        model, tower, name = args.model, args.text_tower, None
    return Stack(model, tower, listen=args.listen, name=args.served_model_name or name, flags=flags)


def _stop_event() -> threading.Event:
    """Set by Ctrl-C, SIGTERM and the closing of the terminal."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _up(args: argparse.Namespace) -> int:
    stop = _stop_event()
    try:
        with _stack(args) as stack:
            stack.wait_ready(_STARTUP_S, interrupted=stop.is_set)
            print(f"ready: {stack.url}   ({stack.url}/docs shows the API; Ctrl-C stops)", file=sys.stderr)
            while not stop.wait(0.5):
                stack.check()
    except KeyboardInterrupt:
        pass
    return 0


def _ask(args: argparse.Namespace) -> int:
    fields: dict[str, Any] = {
        name: getattr(args, name) for name in ("pruner", "keep_tokens", "keep_ratio", "max_tokens", "temperature")
    }
    if args.explain:
        _require_writable_image(args.explain)
    answer = ask(
        args.url, args.image, args.question, timeout_s=args.timeout_s, explain=bool(args.explain) or None, **fields
    )
    if args.explain:
        rows, columns = answer["explain"]["grid"]
        draw_kept(args.image.read_bytes(), (rows, columns), answer["explain"]["kept"]).save(args.explain)
        kept, total = answer["usage"]["visual_tokens_kept"], answer["usage"]["visual_tokens_total"]
        print(f"kept {kept} of {total} visual tokens, drawn in {args.explain}", file=sys.stderr)
    print(json.dumps(answer, indent=2, ensure_ascii=False) if args.json else answer["answer"])
    return 0


def _require_writable_image(path: Path) -> None:
    """Before anything is paid for: a folder that exists, a format that can be written."""
    if not path.absolute().parent.is_dir():
        raise AnswerError(f"there is no folder {path.parent}")
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise AnswerError(f"{path.name} must end in .png, .jpg or .webp")


def _demo(args: argparse.Namespace) -> int:
    if args.overlay:
        _require_writable_image(args.overlay)
    return run_demo(overlay=args.overlay, interrupted=_stop_event().is_set)


def _count_or_auto(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fovea", description="Answers questions about pictures.")
    parser.add_argument("--version", action="version", version=f"fovea {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    up = commands.add_parser(
        "up",
        help="start gateway, encoder service and LLM service; Ctrl-C stops them",
        epilog="The services also read ENCODER_*, LLM_* and GATEWAY_* from the environment: see"
        " python -m encoder_service --help, python -m llm_service --help and python -m gateway --help.",
    )
    up.add_argument("--model", help="checkpoint directory or hub id (default: the shipped small model)")
    up.add_argument("--text-tower", help="CLIP checkpoint (default: the family's own)")
    up.add_argument("--served-model-name", help="name under which the model is served")
    up.add_argument("--listen", default="127.0.0.1:8000", help="host:port of the gateway (default: %(default)s)")
    up.add_argument("--redis-url", help="cache in this Redis instead of in the gateway's memory")
    up.set_defaults(run=_up)

    one = commands.add_parser("ask", help="ask one question about one picture")
    one.add_argument("image", type=Path, help="picture file: JPEG, PNG, WebP, GIF or BMP")
    one.add_argument("question", help="what to ask about it")
    url = os.environ.get("FOVEA_URL", "http://127.0.0.1:8000")
    one.add_argument("--url", default=url, help="the gateway; also FOVEA_URL (default: %(default)s)")
    one.add_argument("--pruner", help="which visual tokens to keep, a name from /v1/pruners")
    budget = one.add_mutually_exclusive_group()
    budget.add_argument(
        "--keep-tokens", type=_count_or_auto, metavar="N", help="visual tokens to keep; auto leaves it to the pruner"
    )
    budget.add_argument("--keep-ratio", type=float, help="share of the visual tokens to keep, in (0, 1]")
    one.add_argument("--max-tokens", type=int, help="longest answer, in tokens")
    one.add_argument("--temperature", type=float, help="0 is greedy")
    one.add_argument("--timeout-s", type=float, default=60, help="deadline in seconds (default: %(default)s)")
    one.add_argument("--json", action="store_true", help="print the whole answer object")
    one.add_argument("--explain", type=Path, metavar="PNG", help="draw the kept patches into this file")
    one.set_defaults(run=_ask)

    demo = commands.add_parser("demo", help="start everything, ask the shipped picture's questions, stop")
    demo.add_argument("--overlay", type=Path, metavar="PNG", help="draw the kept patches of the first question")
    demo.set_defaults(run=_demo)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `fovea` command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
        return status
    except (AnswerError, StackError) as error:
        print(f"fovea: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
