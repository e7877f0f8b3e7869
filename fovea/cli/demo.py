"""`fovea demo`: the three services, the shipped image, its questions, and each answer with two prunings.

The one is that which is recommended for the model, the other DeSAP at the smallest budget of its paper.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fovea.checkpoints.shipped import demo_folder, shipped_checkpoint
from fovea.cli.drawing import require_folder
from fovea.cli.options import add_api_key
from fovea.cli.parsing import Commands
from fovea.cli.terminal import StopSignal
from fovea.cli.values import image_file
from fovea.client import Answer, ask
from fovea.media.images import decode
from fovea.processes.stack import Stack, free_port
from fovea.pruner_spec import NO_PRUNING
from fovea.visualization.explanation import ExplainedImage
from fovea.visualization.figures import draw_overlay

__all__ = ["add"]

_DESAP: Final[dict[str, Any]] = {"pruner": "desap", "keep_ratio": 0.111}
_DESCRIBE: Final = "What do you see?"


def add(commands: Commands) -> None:
    """Adds the subcommand with its options."""
    parser = commands.add_parser(
        "demo",
        help="start everything, ask the shipped image's questions, stop",
        description="Starts the three services on the shipped model, asks the shipped image's questions, with the"
        " pruner recommended for the model and with DeSAP, and stops them.",
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
    return _run_demo(overlay=args.overlay, api_key=args.api_key, interrupted=StopSignal().is_set)


def _is_right(response: Answer, case: dict[str, str]) -> bool:
    return bool(response["answer"].strip().lower() == case["answer"].lower())


def _cell(response: Answer, right: bool) -> str:
    usage = response["usage"]
    tokens = f"{usage['visual_tokens_kept']}/{usage['visual_tokens_total']}"
    return f"{response['answer']:<8} {'right' if right else 'WRONG':<6} {tokens:>7} {usage['wire_bytes']:>7,}"


def _run_demo(
    *, overlay: Path | None = None, api_key: str | None = None, interrupted: Callable[[], bool] = lambda: False
) -> int:
    """Runs the demo: starts the services on the shipped model, asks the questions, prints answers and costs.

    Args:
        overlay: file for a drawing of the patches kept for the first question; None for no drawing.
        api_key: API key, for a gateway that GATEWAY_KEYS_FILE gives keys; None for none.
        interrupted: function that is called between questions and returns whether to end the demo.

    Returns:
        0 if every answer with the recommended pruner was right, else 1.

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
            _describe(stack.url, image, api_key)
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
    """Number of wrong answers with the recommended pruner. Prints a line for each question, and draws the first one
    into `overlay`."""
    wrong = 0
    for number, case in enumerate(questions):
        if interrupted():
            raise KeyboardInterrupt
        response = ask(url, image, case["question"], api_key=api_key, explain=number == 0)
        if number == 0:
            explanation = response["explain"]
            recommended = f"recommended: {explanation['pruner'] if explanation else 'unknown'}"
            print(f"{'':<50} {recommended:<31} | desap, a ninth of the tokens")
            print(f"{'question':<50}" + " |".join([f" {'answer':<15} {'kept':>7} {'bytes':>7}"] * 2))
        right, other = _is_right(response, case), ask(url, image, case["question"], api_key=api_key, **_DESAP)
        wrong += not right
        print(f"{case['question']:<50} {_cell(response, right)} | {_cell(other, _is_right(other, case))}", flush=True)
        if overlay and number == 0:
            data = image.read_bytes()
            pixels = decode(data, max_bytes=len(data), max_pixels=10**6)
            draw_overlay(pixels, ExplainedImage.from_response(case["question"], response)).save(overlay)
    return wrong


def _describe(url: str, image: Path, api_key: str | None) -> None:
    """Prints both descriptions of the image, and that from all visual tokens."""
    print(f"\n{_DESCRIBE}")
    prunings: dict[str, dict[str, Any]] = {"recommended": {}, "desap": _DESAP, "unpruned": {"pruner": NO_PRUNING}}
    for name, fields in prunings.items():
        response = ask(url, image, _DESCRIBE, api_key=api_key, **fields)
        print(f"  {name}, {response['usage']['visual_tokens_kept']} tokens: {response['answer'].strip()}", flush=True)


def _ask_unpruned(url: str, image: Path, question: str, api_key: str | None) -> None:
    """Asks the first question once more with all visual tokens, and prints what that costs."""
    response = ask(url, image, question, api_key=api_key, pruner=NO_PRUNING, cache="bypass")
    print(
        f"\nunpruned, the first question ships {response['usage']['visual_tokens_total']} tokens in"
        f" {response['usage']['wire_bytes']:,} bytes and answers {response['answer']!r}."
    )
