"""`python -m benchmarks.speed.prefill`: prefills of an unpruned image over those of a pruned one in the LLM service.

A random language model with the layer shapes of LLaVA-1.5-7B prefills prompts of text and visual tokens. What is timed
is the LLM service's engine: requests for one token are queued, and steps run until all have it. Prompts are of random
text ids, which cost a language model as much as visual tokens. The sides take turns. There are as many layers as the
memory holds, on a CPU at most two: a ratio hardly depends on their number. Writes `prefill_DEVICE.json` and `.md` into
--out.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from transformers.utils import logging

from benchmarks.checkpoints.in_memory import WIDTH, language_model, llama_config
from benchmarks.checkpoints.tiny.llava import SPECIALS
from benchmarks.checkpoints.tiny.tokenizers import vicuna_tokenizer
from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import Spread, table
from benchmarks.speed.llm_engine import add_cuda_graphs, build_engine, graphs_in_words, random_requests
from benchmarks.speed.timing import add_timing, goal_of_speedup, interleaved, milliseconds, ratio, spreads
from fovea.modeling.compute import num_parameters, resolve_device
from fovea.processes.memory import available_memory
from llm_service.engine.base import GenerationRequest
from llm_service.engine.cache_memory import DEVICE_ROOM_BYTES
from llm_service.engine.sequence import Sequence as EngineSequence
from llm_service.engine.slot_cache import CacheShape
from llm_service.engine.transformers import TransformersEngine

__all__ = ["main", "markdown"]

_MOST_LAYERS: Final = {"cpu": 2, "cuda": 32}
_DEFAULT_ROWS: Final = {"cpu": [1], "cuda": [1, 16]}
# Least ratio, by device, rows and visual tokens.
_GOALS: Final = {("cpu", 1, 64): 4.5, ("cuda", 1, 64): 2.1, ("cuda", 16, 64): 4.7}


def _free_bytes(device: torch.device) -> int:
    """Bytes for weights and slots: half of the free memory of a CPU, all but a reserve of that of a GPU."""
    if device.type == "cpu":
        return (available_memory() or 0) // 2
    free: int = torch.cuda.mem_get_info(device)[0]
    return free - DEVICE_ROOM_BYTES


def _most_layers(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> int:
    """Number of layers whose weights and slots the memory holds, at least 1."""
    layer = llama_config(1, 1, width=args.width)
    weights = dtype.itemsize * (4 * layer.hidden_size**2 + 3 * layer.hidden_size * layer.intermediate_size)
    slots = max(args.rows) * _max_model_len(args) * CacheShape.of(layer, dtype).position_bytes
    layers: int = max(1, min(_MOST_LAYERS[device.type], _free_bytes(device) // (weights + slots)))
    return layers


def _max_model_len(args: argparse.Namespace) -> int:
    """Positions of the longest prompt and its token."""
    positions: int = args.text + max(args.unpruned, *args.visual) + 1
    return positions


def _prefill(engine: TransformersEngine, requests: Sequence[GenerationRequest]) -> None:
    """Runs requests for one token to their end."""
    generations = [engine.submit(request) for request in requests]
    while engine.num_waiting or engine.num_running:
        engine.step()
    for generation in generations:
        assert isinstance(generation, EngineSequence)
        if generation.failed or len(generation.token_ids) != 1:
            raise RuntimeError("a prefill failed; the log of the engine tells why")


def _cell(
    engine: TransformersEngine, vocab_size: int, rows: int, device: torch.device, args: argparse.Namespace
) -> dict[str, Any]:
    sides: dict[str, Callable[[], None]] = {}
    for visual in (args.unpruned, *args.visual):
        requests = random_requests(rows, args.text + visual, vocab_size, max_tokens=1)
        sides[str(visual)] = functools.partial(_prefill, engine, requests)
    times = interleaved(sides, device, args)
    ratios = {str(visual): ratio(times, str(args.unpruned), str(visual)).summary() for visual in args.visual}
    print(f"{rows}: {ratios}", file=sys.stderr, flush=True)
    return {"rows": rows, "seconds": spreads(times), "ratios": ratios, "rounds": times}


async def _measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The cells and the size of the model. The engine's requests need a running event loop."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    tokenizer = vicuna_tokenizer(SPECIALS, image_token=SPECIALS[-1])
    layers = args.layers or _most_layers(args, device, dtype)
    model = language_model(llama_config(layers, len(tokenizer), width=args.width), device, dtype)
    engine = build_engine(
        model,
        tokenizer.backend_tokenizer,
        max_batch_size=max(args.rows),
        max_model_len=_max_model_len(args),
        cuda_graphs=args.cuda_graphs,
    )
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "layers": layers,
        "parameters": num_parameters(model.causal_lm),
        "cells": [_cell(engine, model.vocab_size, rows, device, args) for rows in args.rows],
    }


def _goal(result: Mapping[str, Any], rows: int, visual: str, value: float) -> str:
    """Table cell of the goal, which is of the full width."""
    bound = _GOALS.get((result["device"], rows, int(visual)))
    return goal_of_speedup(value, bound if result["width"] == WIDTH else None)


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    table_rows = []
    for cell in result["cells"]:
        for visual, spread in cell["seconds"].items():
            over = cell["ratios"].get(visual)
            table_rows.append(
                [
                    str(cell["rows"]),
                    visual,
                    f"{cell['rows'] * (result['text'] + int(visual)):,}",
                    milliseconds(spread, 1),
                    "" if over is None else Spread(**over).text(),
                    "" if over is None else _goal(result, cell["rows"], visual, over["median"]),
                ]
            )
    header = ["prompts", "visual tokens", "tokens in all", "a prefill, ms", f"{result['unpruned']} over it", "goal"]
    return (
        f"# Prefills\n\n{origin(result, packages=['torch', 'transformers'])} Device: {result['device']},"
        f" {result['dtype']}, {result['threads']} threads; layers of LLaVA-1.5-7B's shapes at width {result['width']}:"
        f" {result['layers']}, in all {result['parameters'] / 1e6:,.1f} million parameters with random values;"
        f" {result['text']} text tokens in each prompt; clock: {result['clock']}{graphs_in_words(result)}.\n\n"
        f"Medians of {result['num_rounds']} rounds in which the numbers of visual tokens take turns, with the lowest"
        " and the highest. A ratio is\ntaken within a round. LLaVA-1.5-7B has 32 layers, each of which takes the same"
        " time.\n\n"
    ) + table(header, table_rows, num_labels=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it into --out."""
    parser = command_parser("benchmarks.speed.prefill", __doc__)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--rows", nargs="+", type=positive, help="prompts that are queued at once (default: 1, on CUDA 1 and 16)"
    )
    parser.add_argument("--text", type=positive, default=60, help="text tokens of a prompt")
    parser.add_argument("--visual", nargs="+", type=positive, default=[64, 128, 192], help="visual tokens kept")
    parser.add_argument("--unpruned", type=positive, default=576, help="visual tokens of an unpruned image")
    parser.add_argument("--layers", type=positive, help="layers (default: as many as fit, at most 32, on a CPU 2)")
    parser.add_argument("--width", type=positive, default=WIDTH, help="hidden size, a multiple of 128")
    add_cuda_graphs(parser)
    add_timing(parser)
    add_output(parser, rows=[1, 2], text=4, visual=[4, 8], unpruned=16, layers=1, width=128, rounds=2)
    args = parser.parse_args(argv)
    logging.disable_progress_bar()
    device = resolve_device(args.device)
    args.rows = args.rows or _DEFAULT_ROWS[device.type]
    measured = asyncio.run(_measure(args, device))
    result = {
        "provenance": provenance("benchmarks.speed.prefill"),
        "device": device.type,
        "threads": torch.get_num_threads(),
        **{name: getattr(args, name) for name in ("width", "text", "unpruned", "clock", "cuda_graphs")},
        "num_rounds": args.rounds,
        **measured,
    }
    publish(args.out, f"prefill_{device.type}", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
