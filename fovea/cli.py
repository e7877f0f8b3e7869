"""`fovea up | ask | explain | demo`."""

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

from PIL import Image

from fovea import __version__
from fovea.client import AnswerError, ask, explain
from fovea.demo import run_demo
from fovea.errors import ServiceError
from fovea.explained import Explained
from fovea.images import decode
from fovea.sheet import draw_activation_maps, draw_explanations, draw_overlay
from fovea.stack import Stack, StackError, shipped_checkpoint

__all__ = ["main"]

_STARTUP_S = 600
_PRUNING_FIELDS = ("pruner", "pruner_params", "keep_tokens", "keep_ratio")
_ANSWER_FIELDS = (*_PRUNING_FIELDS, "max_tokens", "temperature", "num_frames", "video_budget")


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
    fields: dict[str, Any] = {name: getattr(args, name) for name in _ANSWER_FIELDS}
    fields |= {"llm_pruner": _llm_pruner(args), "explain": bool(args.explain) or None}
    if args.explain:
        _require_writable_image(args.explain)
    *pictures, question = args.words
    pictures = [Path(picture) for picture in pictures]
    if not pictures and not args.video:
        raise AnswerError("name a picture before the question, or a video with --video")
    if args.explain and (len(pictures) != 1 or args.video):
        raise AnswerError("--explain draws one picture; /v1/explain also draws several")
    on_text = (lambda text: print(text, end="", flush=True)) if args.stream else None
    answer = ask(args.url, pictures, question, video=args.video, timeout_s=args.timeout_s, on_text=on_text, **fields)
    if args.explain:
        draw_overlay(_picture(pictures[0]), _explained(question, answer)).save(args.explain)
        kept, total = answer["usage"]["visual_tokens_kept"], answer["usage"]["visual_tokens_total"]
        print(f"kept {kept} of {total} visual tokens, drawn in {args.explain}", file=sys.stderr)
    if args.stream:
        print()
    else:
        print(json.dumps(answer, indent=2, ensure_ascii=False) if args.json else answer["answer"])
    return 0


def _llm_pruner(args: argparse.Namespace) -> dict[str, Any] | None:
    given = {
        "keep_tokens": args.llm_keep_tokens,
        "keep_ratio": args.llm_keep_ratio,
        "params": args.llm_pruner_params,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if args.llm_pruner is None:
        if given:
            raise AnswerError("--llm-keep-tokens, --llm-keep-ratio and --llm-pruner-params go with --llm-pruner")
        return None
    return {"name": args.llm_pruner, **given}


def _explain(args: argparse.Namespace) -> int:
    _require_writable_image(args.out)
    fields = {name: getattr(args, name) for name in _PRUNING_FIELDS} | {"maps": args.maps or None}
    explained = []
    for question in args.question:
        reply = explain(args.url, args.image, question, timeout_s=args.timeout_s, **fields)
        explained.append(_explained(question, reply))
        print(f"{question}\n  {explained[-1].counts}", file=sys.stderr)
    image = _picture(args.image)
    draw = draw_activation_maps if args.maps else draw_explanations
    draw((image, one) for one in explained).save(args.out)
    print(args.out)
    return 0


def _explained(question: str, response: dict[str, Any]) -> Explained:
    try:
        return Explained.from_response(question, response)
    except ServiceError as error:
        raise AnswerError(error.message) from error


def _picture(path: Path) -> Image.Image:
    """A picture that the gateway has accepted, read as the encoder reads it."""
    data = path.read_bytes()
    try:
        return decode(data, max_bytes=len(data), max_pixels=sys.maxsize)
    except ServiceError as error:
        raise AnswerError(error.message) from error


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r:.80} is no JSON object such as {{"task_share": 1}}')
    return value


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

    one = commands.add_parser(
        "ask",
        help="ask one question about one or more pictures, or a video",
        usage="%(prog)s [options] IMAGE ... QUESTION",
    )
    one.add_argument(
        "words",
        nargs="+",
        metavar="IMAGE ... QUESTION",
        help="picture files (JPEG, PNG, WebP, GIF or BMP), then what to ask",
    )
    one.add_argument(
        "--video", type=Path, help="video file, beside pictures or instead: MP4, WebM, MKV, AVI, MOV or GIF"
    )
    one.add_argument("--num-frames", type=int, help="frames to sample from the video")
    one.add_argument("--video-budget", choices=("per_frame", "whole"), help="what shares the budget of a video")
    url = os.environ.get("FOVEA_URL", "http://127.0.0.1:8000")
    one.add_argument("--url", default=url, help="the gateway; also FOVEA_URL (default: %(default)s)")
    one.add_argument("--pruner", help="which visual tokens to keep, a name from /v1/pruners")
    budget = one.add_mutually_exclusive_group()
    budget.add_argument(
        "--keep-tokens", type=_count_or_auto, metavar="N", help="visual tokens to keep; auto leaves it to the pruner"
    )
    budget.add_argument("--keep-ratio", type=float, help="share of the visual tokens to keep, in (0, 1]")
    one.add_argument("--pruner-params", type=_json_object, metavar="JSON", help="its parameters, a JSON object")
    one.add_argument("--llm-pruner", help="a second pruner, inside the language model (side llm in /v1/pruners)")
    budget = one.add_mutually_exclusive_group()
    budget.add_argument("--llm-keep-tokens", type=int, help="visual tokens that it keeps of all pictures together")
    budget.add_argument("--llm-keep-ratio", type=float, help="or the share of them, in (0, 1]")
    one.add_argument("--llm-pruner-params", type=_json_object, metavar="JSON", help="its parameters, a JSON object")
    one.add_argument("--max-tokens", type=int, help="longest answer, in tokens")
    one.add_argument("--temperature", type=float, help="0 is greedy")
    one.add_argument("--timeout-s", type=float, default=60, help="deadline in seconds (default: %(default)s)")
    shape = one.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print the whole answer object")
    shape.add_argument("--stream", action="store_true", help="print the answer while it is decoded")
    one.add_argument("--explain", type=Path, metavar="PNG", help="draw the kept patches into this file")
    one.set_defaults(run=_ask)

    why = commands.add_parser(
        "explain", help="draw which patches are kept for one or more questions about a picture, and why"
    )
    why.add_argument("image", type=Path, help="picture file: JPEG, PNG, WebP, GIF or BMP")
    why.add_argument("question", nargs="+", help="what to ask about it; each question gets a row")
    why.add_argument("--out", type=Path, default=Path("explain.png"), help="file to draw into (default: %(default)s)")
    why.add_argument("--url", default=url, help="the gateway; also FOVEA_URL (default: %(default)s)")
    why.add_argument("--pruner", help="which visual tokens to keep, a name from /v1/pruners")
    why.add_argument("--pruner-params", type=_json_object, metavar="JSON", help="its parameters, a JSON object")
    budget = why.add_mutually_exclusive_group()
    budget.add_argument("--keep-tokens", type=int, help="visual tokens to keep")
    budget.add_argument("--keep-ratio", type=float, help="share of the visual tokens to keep, in (0, 1]")
    why.add_argument(
        "--maps",
        action="store_true",
        help="instead: CLS attention, cross-attention, vanilla and decoupled similarity side by side",
    )
    why.add_argument("--timeout-s", type=float, default=60, help="deadline of each question (default: %(default)s)")
    why.set_defaults(run=_explain)

    demo = commands.add_parser("demo", help="start everything, ask the shipped picture's questions, stop")
    demo.add_argument("--overlay", type=Path, metavar="PNG", help="draw the kept patches of the first question")
    demo.set_defaults(run=_demo)
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """As argparse, but pictures and question may stand on both sides of an option."""
    parser = _parser()
    args, left = parser.parse_known_args(argv)
    if left and ("words" not in args or any(word.startswith("-") for word in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        args.words += left
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `fovea` command; returns the exit status."""
    args = _parse(argv)
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
