"""`python -m benchmarks.speed.decode`: a decoding step of the LLM service's engine beside transformers' `generate`.

A random language model with the layer shapes of LLaVA-1.5-7B, on a CPU at an eighth of its width, answers prompts of
one length. One side is a whole step of the engine, whose keys and values are in slots: forward, choice of the tokens,
text. The others are steps of `generate` with a growing and with a static cache, not compiled. The sides take turns. The
torch operations of a step, of a join and of a leave are counted on the shipped model. Writes `decode_DEVICE.json` and
`.md` into --out.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.utils import logging

from benchmarks.checkpoints.in_memory import WIDTH, language_model, llama_config
from benchmarks.checkpoints.tiny.llava import SPECIALS
from benchmarks.checkpoints.tiny.tokenizers import vicuna_tokenizer
from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import Spread, table
from benchmarks.speed.dispatch_counts import count_operations
from benchmarks.speed.llm_engine import add_cuda_graphs, build_engine, graphs_in_words, random_requests
from benchmarks.speed.timing import CLOCKS, add_timing, milliseconds, ratio, spreads, synchronize
from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.modeling.compute import resolve_device
from llm_service.engine.base import GenerationRequest
from llm_service.engine.transformers import TransformersEngine
from llm_service.models import load_model

__all__ = ["main", "markdown"]

SLOTS: Final = "slots"
_CACHES: Final = {"growing": None, "static": "static"}  # cache_implementation of `generate`
_SIDES: Final = {
    SLOTS: "Fovea's engine, slots",
    "growing": "`generate`, growing cache",
    "static": "`generate`, static cache",
}
_WIDTHS: Final = {"cpu": 512, "cuda": WIDTH}
_LAYERS: Final = {"cpu": 3, "cuda": 32}


class _Clock(StoppingCriteria):
    """Never stops; reads the clock after the first and after the last token."""

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read
        self.readings: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        synchronize(input_ids.device)
        self.readings.append(self._read())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _engine_step(
    engine: TransformersEngine, requests: Sequence[GenerationRequest], device: torch.device, args: argparse.Namespace
) -> float:
    """Seconds of one step after the prefill."""
    generations = [engine.submit(request) for request in requests]
    engine.step()
    if engine.num_running != len(requests):
        raise RuntimeError(f"{engine.num_running} of {len(requests)} sequences run")
    read = CLOCKS[args.clock]
    synchronize(device)
    start = read()
    for _ in range(args.steps):
        engine.step()
    synchronize(device)
    step_s: float = (read() - start) / args.steps
    for generation in generations:
        generation.abort()
    engine.step()
    return step_s


def _generate_step(
    causal_lm: Any, cache: str | None, requests: Sequence[GenerationRequest], args: argparse.Namespace
) -> float:
    """Seconds of one step of `generate` after the prefill."""
    clock = _Clock(CLOCKS[args.clock])
    input_ids = torch.from_numpy(np.stack([request.prompt.input_ids for request in requests])).to(causal_lm.device)
    causal_lm.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=args.steps + 2,
        do_sample=False,
        pad_token_id=0,
        cache_implementation=cache,
        disable_compile=True,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    # As in the engine, the first token of the prefill and one step come before.
    step_s: float = (clock.readings[-1] - clock.readings[1]) / (len(clock.readings) - 2)
    return step_s


@torch.inference_mode()
def _cell(engine: TransformersEngine, causal_lm: Any, count: int, args: argparse.Namespace) -> dict[str, Any]:
    # The answers last for one prefill and more than args.steps steps.
    requests = random_requests(count, args.prompt, causal_lm.config.vocab_size, max_tokens=args.steps + 8)
    sides: dict[str, Callable[[], float]] = {SLOTS: lambda: _engine_step(engine, requests, causal_lm.device, args)}
    for name, cache in _CACHES.items():
        sides[name] = lambda cache=cache: _generate_step(causal_lm, cache, requests, args)  # type: ignore[misc]
    names = list(sides)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(args.warmups + args.rounds):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            step_s = sides[name]()
            if number >= args.warmups:
                times[name].append(step_s)
    ratios = {name: ratio(times, SLOTS, name).summary() for name in _CACHES}
    print(f"{count}: {ratios}", file=sys.stderr, flush=True)
    return {"sequences": count, "seconds": spreads(times), "ratios": ratios, "rounds": times}


async def _measure(args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    tokenizer = vicuna_tokenizer(SPECIALS, image_token=SPECIALS[-1])
    model = language_model(llama_config(args.layers, len(tokenizer), width=args.width), device, dtype)
    engine = build_engine(
        model,
        tokenizer.backend_tokenizer,
        max_batch_size=max(args.sequences),
        max_model_len=args.prompt + args.steps + 16,
        cuda_graphs=args.cuda_graphs,
    )
    return [_cell(engine, model.causal_lm, count, args) for count in args.sequences]


async def _operations(sequences: Sequence[int], device: torch.device) -> list[dict[str, int]]:
    """Operations of a step of the shipped model, and those that a join and a leave add to it."""
    checkpoint = shipped_checkpoint("llava")
    model = load_model(checkpoint, device=device, dtype="auto", attn_implementation="sdpa")
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    engine = build_engine(model, tokenizer, max_batch_size=max(sequences), max_model_len=256, cuda_graphs="off")
    rows = {}
    for count in (*sequences, *sequences):  # the first time, steps of new sizes make their views of the slots
        others = random_requests(count, 60, 500, max_tokens=16)[1:]
        (last,) = random_requests(1, 60, 500, max_tokens=3)  # two with the join, and one in the step
        generations = [engine.submit(request) for request in others]
        engine.step()
        generations.append(engine.submit(last))
        join = count_operations(engine.step).total
        step = count_operations(engine.step)
        leave = count_operations(engine.step).total
        for generation in generations:
            generation.abort()
        engine.step()
        rows[count] = {
            "sequences": count,
            "step": step.total,
            "reads": step.reads + step.exports,
            "join": join - step.total,
            "leave": leave - (step.total if others else 0),
        }
    return list(rows.values())


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    rows = []
    for cell in result["cells"]:
        for name, label in _SIDES.items():
            over = cell["ratios"].get(name)
            rows.append(
                [
                    str(cell["sequences"]),
                    label,
                    milliseconds(cell["seconds"][name], 2),
                    "" if over is None else Spread(**over).text(),
                ]
            )
    counted = [
        [f"{row[name]:,}" for name in ("sequences", "step", "reads", "join", "leave")] for row in result["operations"]
    ]
    return (
        f"# Decoding steps\n\n{origin(result, packages=['torch', 'transformers'])} Device: {result['device']},"
        f" {result['dtype']}, {result['threads']} threads; {result['layers']} layers of LLaVA-1.5-7B's shapes at width"
        f" {result['width']}, random weights; prompts of {result['prompt']} tokens, {result['steps']} steps; clock:"
        f" {result['clock']}{graphs_in_words(result)}.\n\n"
        f"Medians of {result['num_rounds']} rounds in which the sides take turns, with the lowest and the highest. A"
        " ratio is taken within a round.\n\n"
        + table(["sequences", "side", "a step, ms", "slots over it"], rows, num_labels=2)
        + "\nTorch operations of the shipped model: a step of so many sequences, its reads from the device, and what"
        " the join or the leave\nof one sequence adds to it.\n\n"
        + table(["sequences", "step", "reads", "join", "leave"], counted, num_labels=1)
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the tables, and writes them into --out."""
    parser = command_parser("benchmarks.speed.decode", __doc__)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--sequences", nargs="+", type=positive, default=[1, 8, 32])
    parser.add_argument(
        "--prompt", type=positive, default=124, help="tokens of a prompt (124: 60 and 64 visual tokens)"
    )
    parser.add_argument("--steps", type=positive, default=16, help="steps that are timed in each round")
    parser.add_argument("--width", type=positive, help="hidden size, a multiple of 128 (default: 512, on CUDA 4096)")
    parser.add_argument("--layers", type=positive, help="layers (default: 3, on CUDA 32)")
    add_cuda_graphs(parser)
    add_timing(parser, rounds=3)
    add_output(parser, sequences=[1, 2], prompt=8, steps=2, width=128, layers=1, rounds=2)
    args = parser.parse_args(argv)
    logging.disable_progress_bar()
    device = resolve_device(args.device)
    args.width = args.width or _WIDTHS[device.type]
    args.layers = args.layers or _LAYERS[device.type]
    cells = asyncio.run(_measure(args, device))
    operations = asyncio.run(_operations(args.sequences, device))
    result = {
        "provenance": provenance("benchmarks.speed.decode"),
        "device": device.type,
        "dtype": "float32" if device.type == "cpu" else "bfloat16",
        "threads": torch.get_num_threads(),
        **{name: getattr(args, name) for name in ("width", "layers", "prompt", "steps", "clock", "cuda_graphs")},
        "num_rounds": args.rounds,
        "cells": cells,
        "operations": operations,
    }
    publish(args.out, f"decode_{device.type}", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
