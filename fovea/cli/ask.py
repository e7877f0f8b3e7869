"""`fovea ask`: one question about images or a video."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from fovea.cli.answer_options import add_answering, answer_fields
from fovea.cli.connection import gateway_client
from fovea.cli.drawing import decode_image, read_explanation, require_folder, require_local
from fovea.cli.media import IMAGE_HELP, media, require_images, split_question
from fovea.cli.options import add_gateway, add_pruning, shared_fields
from fovea.cli.parsing import Commands, UsageError
from fovea.cli.terminal import write_json
from fovea.cli.values import count, image_file
from fovea.client import Answer
from fovea.client.form_parts import Medium
from fovea.visualization.figures import draw_explanations

__all__ = ["add"]

_VIDEO_FIELDS: Final = ("num_frames", "video_budget")


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
    add_answering(parser)
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


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    shape = group.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print the whole answer object")
    shape.add_argument("--stream", action="store_true", help="print the answer while it is decoded")
    group.add_argument("--explain", type=image_file, metavar="PNG", help="draw the sheet of fovea explain into a file")


def _run(args: argparse.Namespace) -> int:
    words, question = split_question(args.words)
    if not words and args.video is None:
        raise UsageError("an image before the question is needed, or a video with --video")
    if args.explain:
        _require_drawable(args, words)
    fields = shared_fields(args) | answer_fields(args) | {name: getattr(args, name) for name in _VIDEO_FIELDS}
    fields["explain"] = True if args.explain else None
    images = media([*words, *([args.video] if args.video is not None else [])])
    video = images.pop() if args.video is not None else None
    require_images(words, images, "a video is given as --video {video}" if video is None else "--video takes one video")
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
        raise UsageError("--explain draws one image, and no video; /v1/explain also draws several images")
    require_local(words[0])
    require_folder(args.explain)


def _draw(args: argparse.Namespace, image: Medium, question: str, answer: Answer) -> None:
    draw_explanations([(decode_image(image), read_explanation(question, answer))]).save(args.explain)
    kept, total = answer["usage"]["visual_tokens_kept"], answer["usage"]["visual_tokens_total"]
    print(f"kept {kept} of {total} visual tokens, drawn in {args.explain}", file=sys.stderr)
