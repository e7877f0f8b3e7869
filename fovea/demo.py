"""`fovea demo`: three processes, one picture, real questions, and what each answer cost."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fovea.client import ask
from fovea.explained import Explained
from fovea.images import decode
from fovea.sheet import draw_overlay
from fovea.stack import Stack, StackError, free_port, shipped_checkpoint

__all__ = ["run_demo"]


def _line(question: str, reply: dict[str, Any], right: bool) -> str:
    usage, timing = reply["usage"], reply["timing_ms"]
    return (
        f"{question:<50} {reply['answer']:<18} {'right' if right else 'WRONG':<6}"
        f" {usage['visual_tokens_kept']:>3}/{usage['visual_tokens_total']:<4}"
        f" {usage['wire_bytes']:>7,} {timing['total']:>8.0f}"
    )


def run_demo(*, overlay: Path | None = None, interrupted: Callable[[], bool] = lambda: False) -> int:
    """Starts the services on the shipped model, asks the questions of `lab/demo`, prints what came, stops.

    Args:
        overlay: Where to draw the patches kept for the first question; None for no drawing.
        interrupted: Asked between questions; true ends the demo.

    Returns:
        0 when every answer was right, else 1.

    Raises:
        StackError: The services do not start, or this installation comes without the demo's picture.
        KeyboardInterrupt: `interrupted` said so.
    """
    llava, clip = shipped_checkpoint("llava"), shipped_checkpoint("clip")
    folder = llava.parent.parent / "demo"
    try:
        cases = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise StackError("the demo's picture and questions are not installed") from error
    picture = folder / cases["image"]
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "services.log")
        stack = Stack(str(llava), str(clip), f"127.0.0.1:{free_port()}", "fovea-lab", log_to=log)
        print("starting gateway, encoder service and LLM service as three processes ...", flush=True)
        try:
            with stack:
                stack.wait_ready(300, interrupted=interrupted)
                print(f"ready. The picture: lab/demo/{picture.name}\n")
                print(f"{'question':<50} {'answer':<18} {'':<6} {'kept':>8} {'bytes':>7} {'ms':>8}")
                for number, case in enumerate(cases["questions"]):
                    if interrupted():
                        raise KeyboardInterrupt
                    reply = ask(stack.url, picture, case["question"], explain=number == 0)
                    right = reply["answer"].strip().lower() == case["answer"].lower()
                    wrong += not right
                    print(_line(case["question"], reply, right), flush=True)
                    if overlay and number == 0:
                        data = picture.read_bytes()
                        image = decode(data, max_bytes=len(data), max_pixels=10**6)
                        draw_overlay(image, Explained.from_response(case["question"], reply)).save(overlay)
                every = ask(stack.url, picture, cases["questions"][0]["question"], pruner="none", cache="bypass")
                print(
                    f"\nunpruned, the first question ships {every['usage']['visual_tokens_total']} tokens in"
                    f" {every['usage']['wire_bytes']:,} bytes and answers {every['answer']!r}."
                )
        except StackError:
            if log.exists():
                print(log.read_text(encoding="utf-8", errors="replace")[-4000:])
            raise
    print("stopped." if not wrong else f"stopped; {wrong} wrong.")
    return 1 if wrong else 0
