"""`fovea explain`: a drawing of the patches that are kept for a question, and of the maps that select them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fovea.cli.connection import gateway_client
from fovea.cli.drawing import decode_image, read_explanation, require_folder, require_local
from fovea.cli.media import media, names_medium, require_images, split_question
from fovea.cli.options import add_gateway, add_pruning, shared_fields
from fovea.cli.parsing import Commands, UsageError
from fovea.cli.values import image_file
from fovea.client import Answer, Explanation
from fovea.visualization.figures import draw_activation_maps, draw_explanations

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Adds the subcommand with its options."""
    parser = commands.add_parser(
        "explain",
        help="draw which patches are kept for one or more questions about an image, and why",
        description="Draws which patches are kept for one or more questions about an image, and why.",
        usage="%(prog)s [options] IMAGE QUESTION ...",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="IMAGE QUESTION ...",
        help="JPEG, PNG, WebP, GIF or BMP file, or - for standard input; then questions, each of which gets a row",
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out",
        type=image_file,
        default=Path("explain.png"),
        metavar="PNG",
        help="file to draw into (default: %(default)s)",
    )
    group.add_argument(
        "--maps",
        action="store_true",
        help="instead: CLS attention, cross-attention, vanilla and decoupled similarity side by side",
    )
    add_pruning(parser)
    add_gateway(parser)
    parser.advice = _advice
    parser.set_defaults(run=_run, parser=parser)


def _advice(words: Sequence[str], _: argparse.Namespace) -> str:
    if any(word.partition("=")[0] == "--video" for word in words):
        return "a video is not drawn; fovea ask answers questions about it"
    return ""


def _run(args: argparse.Namespace) -> int:
    if not args.words:
        raise UsageError("an image and a question are needed")
    image_word, *questions = args.words
    others = [word for word in questions if names_medium(word)]
    if 0 < len(others) < len(questions):
        raise UsageError(f"one image is drawn; {others[0]!r:.80} is in the place of a question")
    split_question(args.words)  # checks that there is a question
    if not questions:
        raise UsageError("an image before the question is needed")
    require_local(image_word)
    require_folder(args.out)
    (image,) = images = media([image_word])
    require_images([image_word], images, "a video is not drawn; fovea ask --video {video} answers questions about it")
    fields = shared_fields(args)
    explanations = []
    with gateway_client(args) as client:
        for question in questions:
            # The sheet shows the answer; the maps are those of the tower and of one prefill, without an answer.
            response: Explanation | Answer = (
                client.explain(image, question, maps=True, **fields)
                if args.maps
                else client.answer(image, question, explain=True, **fields)
            )
            explanations.append(read_explanation(question, response))
            print(f"{question}\n  {explanations[-1].counts}", file=sys.stderr)
    pixels = decode_image(image)
    draw = draw_activation_maps if args.maps else draw_explanations
    draw((pixels, explanation) for explanation in explanations).save(args.out)
    print(args.out)
    return 0
