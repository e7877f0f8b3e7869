"""`python -m benchmarks.speed.stalls`: streams that decode while a long prompt arrives every second.

A prompt of LLaVA-NeXT has 2,880 visual tokens. While an engine prefills it, the other sequences get no token. One side
prefills whole prompts; the others prefill --chunk tokens between two decoding steps. Streams read answers without a
pause, and the benchmark measures their TPOT, their longest gap, and the TTFT of streams and long prompts. The sides
take turns. The language model is random. Writes `stalls_DEVICE.json` and `.md` into --out.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, models
from transformers.utils import logging

from benchmarks.checkpoints import engine_model
from benchmarks.harness.arguments import add_seed, command_parser, number, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import Spread, table
from benchmarks.speed.stall_load import Load, Prompts, run
from fovea.modeling.compute import resolve_device
from llm_service.engine.launching import launching_on
from llm_service.engine.slots import SlotClass
from llm_service.engine.transformers import TransformersEngine
from llm_service.models import load_model
from llm_service.models.base import VisionLanguageModel

__all__ = ["main", "markdown"]

WHOLE: Final = "whole"
_WIDTH: Final = 384  # the prefill of a long prompt takes about half a second on two cores
_LONG_SLOTS: Final = 2
_LOAD: Final = [load_field.name for load_field in dataclasses.fields(Load)]


def _word_tokenizer(vocab_size: int) -> Tokenizer:
    """A tokenizer whose ids are words, so that each token comes with text, as a delta of its own."""
    return Tokenizer(models.WordLevel({f"w{token_id}": token_id for token_id in range(vocab_size)}))


def _engine(model: VisionLanguageModel, load: Load, max_prefill_tokens: int) -> TransformersEngine:
    """An engine whose answers end with `max_tokens` alone.

    Args:
        model: Language model.
        load: Load that it has slots for.
        max_prefill_tokens: Most prompt tokens that are prefilled between two decoding steps.
    """
    return TransformersEngine(
        model,
        _word_tokenizer(model.vocab_size),
        eos_token_ids=frozenset(),
        max_model_len=model.max_model_len,
        max_batch_size=load.streams + _LONG_SLOTS,
        max_batch_delay_ms=0,
        max_queue_size=load.streams + load.long_prompts,
        slot_classes=[SlotClass(load.prompt + load.answer, load.streams), SlotClass(model.max_model_len, _LONG_SLOTS)],
        max_prefill_tokens=max_prefill_tokens,
        launching=launching_on(model.device, graphs=False),
    )


async def _measure(
    engines: Mapping[str, TransformersEngine], load: Load, prompts: Prompts, rounds: int
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """TTFT of a long prompt without streams by side, in milliseconds, and the figures of each side in each round."""
    one_prompt = dataclasses.replace(load, long_prompts=1, period_s=0)
    alone = {}
    for name, engine in engines.items():
        await run(engine, one_prompt, prompts)  # warm-up, not counted
        observed = await run(engine, dataclasses.replace(one_prompt, streams=0), prompts)
        alone[name] = round(1e3 * observed.long_ttfts[0], 3)
    names, runs = list(engines), []
    for round_number in range(rounds):
        first = round_number % len(names)
        for name in (*names[first:], *names[:first]):
            observed = await run(engines[name], load, prompts)
            runs.append({"side": name, "round": round_number, **observed.summary()})
            print(f"round {round_number}, {name}: longest gap {runs[-1]['longest_gap_ms']:.0f} ms", file=sys.stderr)
    return alone, runs


def _run(model: VisionLanguageModel, load: Load, args: argparse.Namespace) -> tuple[dict[str, float], Any]:
    sides = {str(chunk): chunk for chunk in args.chunk} | {WHOLE: model.max_model_len}
    engines = {name: _engine(model, load, tokens) for name, tokens in sides.items()}
    for engine in engines.values():
        engine.start()
    try:
        return asyncio.run(_measure(engines, load, Prompts(model.image_token_id, args.seed), args.rounds))
    finally:
        for engine in engines.values():
            engine.stop()


def _cell(runs: Sequence[dict[str, Any]], side: str, key: str, digits: int = 1) -> str:
    return Spread.of([run[key] for run in runs if run["side"] == side]).text(digits)


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    runs, load = result["runs"], result["load"]
    labels = {side: "whole prompts" if side == WHOLE else f"{int(side):,} tokens" for side in result["alone_ms"]}
    gaps = ("tpot_p50_ms", "tpot_p99_ms", "longest_gap_ms")
    streams = [
        [label, *(_cell(runs, side, key) for key in gaps), _cell(runs, side, "tokens_per_s", 0)]
        for side, label in labels.items()
    ]
    firsts = ("stream_ttft_p50_ms", "stream_ttft_p99_ms", "long_ttft_p50_ms", "long_ttft_p99_ms")
    ttfts = [
        [label, *(_cell(runs, side, key, 0) for key in firsts), f"{result['alone_ms'][side]:.0f}"]
        for side, label in labels.items()
    ]
    return (
        f"# Streams beside long prompts\n\n{origin(result, packages=['torch', 'transformers'])} Device:"
        f" {result['device']}, {result['dtype']}, {result['threads']} threads. A random LLaVA:"
        f" {result['model']['layers']} layers of width {result['model']['hidden_size']}.\n\n"
        f"{load['streams']} streams have prompts of {load['prompt']} tokens and answers of {load['answer']}. A long"
        f" prompt of {result['long_prompt_tokens']:,} tokens arrives every {load['period_s']:g} s,"
        f" {load['long_prompts']} times in a round, whether or not the former one has its answer. A side is the number"
        " of prompt tokens that are prefilled between two decoding steps.\n\n"
        f"Medians of {result['num_rounds']} rounds in which the sides take turns, with the lowest and the highest."
        " Times are taken where the answers are read.\n\n## Streams\n\n"
        + table(
            ["prefilled at once", "TPOT p50, ms", "TPOT p99, ms", "longest gap, ms", "tokens/s"], streams, num_labels=1
        )
        + "\n## Time to first token, ms\n\n"
        + table(
            ["prefilled at once", "streams: p50", "p99", "long prompts: p50", "p99", "one without streams"],
            ttfts,
            num_labels=1,
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("benchmarks.speed.stalls", __doc__)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--chunk", nargs="+", type=positive, default=[1024], help="most prompt tokens between two decoding steps"
    )
    parser.add_argument("--streams", type=positive, default=4)
    parser.add_argument(
        "--prompt", type=positive, default=124, help="tokens of a stream's prompt (124: 60 and 64 visual tokens)"
    )
    parser.add_argument("--answer", type=positive, default=128, help="tokens of a stream's answer")
    parser.add_argument("--images", type=positive, default=5, help="images of a long prompt, of 576 tokens each")
    parser.add_argument("--words", type=positive, default=60, help="text tokens of a long prompt")
    parser.add_argument("--period", dest="period_s", type=number(0), default=1.0, help="seconds between long prompts")
    parser.add_argument("--long-prompts", type=positive, default=20, help="long prompts of a round")
    parser.add_argument("--width", type=positive, default=_WIDTH, help="hidden size, a multiple of 64")
    parser.add_argument("--rounds", type=positive, default=3)
    add_seed(parser, 0, "the prompts")
    add_output(parser, chunk=[256], streams=2, answer=8, images=1, period_s=0.1, long_prompts=2, width=64, rounds=2)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the tables, and writes them into --out."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.answer < 2:
        parser.error(f"argument --answer: {args.answer} is not accepted; a whole number of at least 2")
    logging.disable_progress_bar()
    device = resolve_device(args.device)
    load = Load(**{name: getattr(args, name) for name in _LOAD})
    with tempfile.TemporaryDirectory() as scratch:
        facts = engine_model.write(Path(scratch), width=args.width)
        model = load_model(Path(scratch), device=device, dtype="auto", attn_implementation="sdpa")
    alone_ms, runs = _run(model, load, args)
    result = {
        "provenance": provenance("benchmarks.speed.stalls"),
        "seed": args.seed,
        "device": device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "model": facts,
        "load": dataclasses.asdict(load),
        "long_prompt_tokens": load.long_prompt_tokens,
        "num_rounds": args.rounds,
        "alone_ms": alone_ms,
        "runs": runs,
    }
    publish(args.out, f"stalls_{device.type}", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
