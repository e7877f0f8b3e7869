"""`fovea ask`: one question about images or a video."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

from fovea.cli.connection import gateway_client
from fovea.cli.drawing import decode_image, read_explanation, require_folder, require_local
from fovea.cli.media import IMAGE_HELP, media, split_question
from fovea.cli.options import BUDGET_SHARE, add_gateway, add_pruning, shared_fields
from fovea.cli.parsing import Commands, UsageError
from fovea.cli.terminal import write_json
from fovea.cli.values import count, image_file, json_object, number, seed, text
from fovea.client import Answer
from fovea.client.form_parts import Medium
from fovea.sampling_ranges import SAMPLING_RANGES
from fovea.visualization.figures import draw_overlay
from fovea.wire.formats import WIRE_FORMATS

__all__ = ["add"]

_FIELDS: Final = (
    *("num_frames", "video_budget", "wire_dtype", "max_wire_bytes"),
    *("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)


def add(commands: Commands) -> None:
    """Adds the subcommand with its options."""
    parser = commands.add_parser(
        "ask",
        help="ask one question about one or more images, or a video",
        description="Asks one question about one or more images, or a video.",
        usage="%(prog)s [options] IMAGE ... QUESTION",
    )
    parser.add_argument(
        "words", nargs="*", metavar="IMAGE ... QUESTION", help=f"each image a {IMAGE_HELP}; then a question"
    )
    _add_video(parser)
    add_pruning(parser)
    _add_llm_pruning(parser)
    _add_wire(parser)
    _add_sampling(parser)
    _add_output(parser)
    add_gateway(parser)
    parser.set_defaults(run=_run, parser=parser)


def _add_video(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("video")
    group.add_argument(
        "--video",
        metavar="FILE",
        help="with or without images: MP4, WebM, MKV, AVI, MOV or GIF file, https URL, or - for standard input",
    )
    group.add_argument(
        "--num-frames", type=count, metavar="N", help="frames to sample (default: the model's own number)"
    )
    group.add_argument(
        "--video-budget",
        choices=("per_frame", "whole"),
        help="each frame has its own share of the budget (default), or all frames compete for one budget",
    )


def _add_llm_pruning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("second pruner, inside the language model")
    group.add_argument("--llm-pruner", metavar="NAME", help="name from /v1/pruners whose side is llm")
    group.add_argument("--llm-pruner-params", type=json_object, metavar="JSON", help="its parameters, a JSON object")
    budget = group.add_mutually_exclusive_group()
    budget.add_argument(
        "--llm-keep-tokens", type=count, metavar="N", help="visual tokens to keep of all images together"
    )
    budget.add_argument("--llm-keep-ratio", type=BUDGET_SHARE, metavar="SHARE", help="or the share of them to keep")


def _add_wire(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("link between encoder service and LLM service")
    group.add_argument(
        "--wire-dtype", choices=tuple(WIRE_FORMATS), help="wire format of visual tokens (default: the gateway's)"
    )
    group.add_argument(
        "--max-wire-bytes",
        type=count,
        metavar="N",
        help="most bytes of visual tokens; number of tokens and wire format are chosen to fit",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("answer")
    sampling = {name: number(f"a number from {range_}", range_.accepts) for name, range_ in SAMPLING_RANGES.items()}
    group.add_argument("--max-tokens", type=count, metavar="N", help="longest answer, in tokens (default: 128)")
    group.add_argument(
        "--temperature",
        type=sampling["temperature"],
        metavar="T",
        help="0 is greedy, up to 2 (default: the server's, 0)",
    )
    group.add_argument(
        "--top-p",
        type=BUDGET_SHARE,
        metavar="P",
        help="sample from the likeliest tokens with this probability together",
    )
    group.add_argument("--top-k", type=count, metavar="N", help="sample from this many of the likeliest tokens")
    group.add_argument(
        "--min-p",
        type=sampling["min_p"],
        metavar="P",
        help="sample from tokens at least this share as likely as the likeliest",
    )
    group.add_argument(
        "--repetition-penalty",
        type=sampling["repetition_penalty"],
        metavar="X",
        help="above 1: fewer repetitions of question and answer (default: the checkpoint's)",
    )
    group.add_argument(
        "--presence-penalty", type=sampling["presence_penalty"], metavar="X", help="above 0: fewer words said before"
    )
    group.add_argument(
        "--frequency-penalty", type=sampling["frequency_penalty"], metavar="X", help="above 0: fewer words said often"
    )
    group.add_argument("--seed", type=seed, metavar="N", help="makes sampling repeatable")
    group.add_argument(
        "--stop",
        action="append",
        type=text,
        metavar="TEXT",
        help="end the answer before this text; may be given 8 times",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    shape = group.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print the whole answer object")
    shape.add_argument("--stream", action="store_true", help="print the answer while it is decoded")
    group.add_argument(
        "--explain", type=image_file, metavar="PNG", help="draw the kept patches of the image into a file"
    )


def _run(args: argparse.Namespace) -> int:
    words, question = split_question(args.words)
    if not words and args.video is None:
        raise UsageError("an image before the question is needed, or a video with --video")
    if args.explain:
        _require_drawable(args, words)
    fields = shared_fields(args) | {name: getattr(args, name) for name in _FIELDS}
    fields |= {"llm_pruner": _llm_pruner(args), "explain": True if args.explain else None}
    images = media([*words, *([args.video] if args.video is not None else [])])
    video = images.pop() if args.video is not None else None
    with gateway_client(args) as client:
        if args.stream:
            with client.stream(images, question, video=video, **fields) as stream:
                for piece in stream:
                    print(piece, end="", flush=True)
                print()
                answer = stream.answer
        else:
            answer = client.answer(images, question, video=video, **fields)
    if args.json:
        write_json(answer)
    elif not args.stream:
        print(answer["answer"])
    if args.explain:
        _draw(args, images[0], question, answer)
    return 0


def _require_drawable(args: argparse.Namespace, words: list[str]) -> None:
    if len(words) != 1 or args.video is not None:
        raise UsageError("--explain draws one image; /v1/explain also draws several")
    require_local(words[0])
    require_folder(args.explain)


def _draw(args: argparse.Namespace, image: Medium, question: str, answer: Answer) -> None:
    draw_overlay(decode_image(image), read_explanation(question, answer)).save(args.explain)
    kept, total = answer["usage"]["visual_tokens_kept"], answer["usage"]["visual_tokens_total"]
    print(f"kept {kept} of {total} visual tokens, drawn in {args.explain}", file=sys.stderr)


def _llm_pruner(args: argparse.Namespace) -> dict[str, Any] | None:
    options = {
        "keep_tokens": args.llm_keep_tokens,
        "keep_ratio": args.llm_keep_ratio,
        "params": args.llm_pruner_params,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if args.llm_pruner is not None:
        return {"name": args.llm_pruner, **options}
    if options:
        raise UsageError("--llm-keep-tokens, --llm-keep-ratio and --llm-pruner-params go with --llm-pruner")
    return None
