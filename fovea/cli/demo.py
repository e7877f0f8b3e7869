"""`fovea demo`: the three services, the shipped image, its questions, and the cost of each answer."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from fovea.checkpoints.shipped import demo_folder, shipped_checkpoint
from fovea.cli.drawing import require_folder
from fovea.cli.options import add_api_key
from fovea.cli.parsing import Commands
from fovea.cli.terminal import stop_event
from fovea.cli.values import image_file
from fovea.client import Answer, ask
from fovea.media.images import decode
from fovea.processes.stack import Stack, free_port
from fovea.visualization.explanation import ExplainedImage
from fovea.visualization.figures import draw_overlay

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Adds the subcommand with its options."""
    parser = commands.add_parser(
        "demo",
        help="start everything, ask the shipped image's questions, stop",
        description="Starts the three services on the shipped model, asks the shipped image's questions, stops them.",
        usage="%(prog)s [options]",
    )
    parser.add_argument(
        "--overlay", type=image_file, metavar="PNG", help="draw the kept patches of the first question into a file"
    )
    add_api_key(parser)
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    if args.overlay:
        require_folder(args.overlay)
    return _run_demo(overlay=args.overlay, api_key=args.api_key, interrupted=stop_event().is_set)


def _line(question: str, response: Answer, right: bool) -> str:
    usage, timing = response["usage"], response["timing_ms"]
    return (
        f"{question:<50} {response['answer']:<18} {'right' if right else 'WRONG':<6}"
        f" {usage['visual_tokens_kept']:>3}/{usage['visual_tokens_total']:<4}"
        f" {usage['wire_bytes']:>7,} {timing['total']:>8.0f}"
    )


def _run_demo(
    *, overlay: Path | None = None, api_key: str | None = None, interrupted: Callable[[], bool] = lambda: False
) -> int:
    """Runs the demo: starts the services on the shipped model, asks the questions, prints answers and costs.

    Args:
        overlay: file for a drawing of the patches kept for the first question; None for no drawing.
        api_key: API key, for a gateway that GATEWAY_KEYS_FILE gives keys; None for none.
        interrupted: function that is called between questions and returns whether to end the demo.

    Returns:
        0 if every answer was right, else 1.

    Raises:
        NotInstalled: the installation does not include the shipped model or its demo.
        StackError: the services do not start.
        KeyboardInterrupt: `interrupted` returned true.
    """
    llava, clip = shipped_checkpoint("llava"), shipped_checkpoint("clip")
    folder = demo_folder()
    demo = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    image, questions = folder / demo["image"], demo["questions"]
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "services.log")
        stack = Stack(str(llava), str(clip), f"127.0.0.1:{free_port()}", "fovea-lab", log_to=log)
        print("starting gateway, encoder service and LLM service as three processes ...", flush=True)
        with stack:
            stack.wait_ready(300, interrupted=interrupted)
            print(f"ready. The image: lab/demo/{image.name}\n")
            wrong = _ask_questions(stack.url, image, questions, overlay, api_key, interrupted)
            _ask_unpruned(stack.url, image, questions[0]["question"], api_key)
    print("stopped." if not wrong else f"stopped; {wrong} wrong.")
    return 1 if wrong else 0


def _ask_questions(
    url: str,
    image: Path,
    questions: list[dict[str, str]],
    overlay: Path | None,
    api_key: str | None,
    interrupted: Callable[[], bool],
) -> int:
    """Number of wrong answers. Prints a line for each question, and draws the first one into `overlay`."""
    print(f"{'question':<50} {'answer':<18} {'':<6} {'kept':>8} {'bytes':>7} {'ms':>8}")
    wrong = 0
    for number, case in enumerate(questions):
        if interrupted():
            raise KeyboardInterrupt
        response = ask(url, image, case["question"], api_key=api_key, explain=number == 0)
        right = response["answer"].strip().lower() == case["answer"].lower()
        wrong += not right
        print(_line(case["question"], response, right), flush=True)
        if overlay and number == 0:
            data = image.read_bytes()
            pixels = decode(data, max_bytes=len(data), max_pixels=10**6)
            draw_overlay(pixels, ExplainedImage.from_response(case["question"], response)).save(overlay)
    return wrong


def _ask_unpruned(url: str, image: Path, question: str, api_key: str | None) -> None:
    """Asks the first question once more with all visual tokens, and prints what that costs."""
    response = ask(url, image, question, api_key=api_key, pruner="none", cache="bypass")
    print(
        f"\nunpruned, the first question ships {response['usage']['visual_tokens_total']} tokens in"
        f" {response['usage']['wire_bytes']:,} bytes and answers {response['answer']!r}."
    )
