"""`python -m benchmarks.engine`: throughput and TTFT of each engine of the LLM service, pruned and unpruned.

The load is a closed loop: each of N clients sends its next request after an answer. Requests go to the `LLMEngine`
interface, without sockets. Each request has its own image, so that no prefix cache helps. One engine runs at a time, in
its own process: transformers, vLLM, transformers, vLLM, ... In a process, pruned and unpruned runs alternate. The
benchmark needs the environment of `make test-vllm`, which has the CPU build of vLLM.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.checkpoints import engine_model
from benchmarks.harness.arguments import add_seed, command_parser, positive
from benchmarks.harness.children import run_child
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from benchmarks.speed.engine_report import ENGINES, markdown, plot, summary
from llm_service.engine.base import Done, GenerationRequest, LLMEngine
from llm_service.prompts import Prompt, VisualTokens
from llm_service.sampling import SamplingParams
from llm_service.settings import LLMSettings
from llm_service.startup import load

__all__ = ["main"]

# Number of requests in one measurement, by number of clients.
_REQUESTS: Final = {1: 3, 4: 8, 16: 32, 64: 64}
_BUDGETS: Final = (576, 64)
_NUM_WORDS: Final = 40
_ANSWER_TOKENS: Final = 16
# This is vLLM's own choice on a CPU. One core is left to its processes that do not compute.
_NUM_THREADS: Final = max(1, (os.cpu_count() or 1) - 1)
_DEADLINE_S: Final = 3600.0  # longer than any run
_TIMEOUT_S: Final = 1800.0


def _settings(engine: str, checkpoint: str) -> LLMSettings:
    """Settings of an engine; both compute with the same number of threads and may run all requests at once."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    return LLMSettings(
        model=checkpoint,
        engine=engine,
        device="cpu",
        dtype="bfloat16",
        num_threads=_NUM_THREADS,
        max_batch_size=max(_REQUESTS),
        max_queue_size=max(_REQUESTS),
        engine_args={"enforce_eager": True} if engine == "vllm" else {},
    )


def _requests(count: int, kept: int, image_token_id: int, random: np.random.Generator) -> list[GenerationRequest]:
    """Questions of the same length, each about a new image."""
    patches = int(np.prod(engine_model.GRID))
    first_word = image_token_id + 1
    requests = []
    for _ in range(count):
        words = random.integers(first_word, first_word + 200, _NUM_WORDS)
        features = random.standard_normal((kept, engine_model.VISUAL_WIDTH), dtype=np.float32)
        positions = np.sort(random.permutation(patches)[:kept])
        prompt = Prompt(np.array([1, image_token_id, *words]), (VisualTokens(features, positions, engine_model.GRID),))
        sampling = SamplingParams(max_tokens=_ANSWER_TOKENS)
        requests.append(GenerationRequest(prompt, sampling, time.monotonic() + _DEADLINE_S))
    return requests


async def _answer(engine: LLMEngine, request: GenerationRequest) -> Done:
    async for event in engine.submit(request):
        if isinstance(event, Done):
            return event
    raise RuntimeError("the engine ended an answer without a last event")


async def _measure(engine: LLMEngine, requests: list[GenerationRequest], clients: int) -> dict[str, Any]:
    """Measurement of all requests, `clients` of them at a time: duration, tokens, and the TTFT of each answer."""
    remaining, answers = iter(requests), list[Done]()

    async def client() -> None:
        for request in remaining:
            answers.append(await _answer(engine, request))

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "requests": len(answers),
        "tokens": sum(answer.completion_tokens for answer in answers),
        "first_token_ms": [round(answer.timing.time_to_first_token_ms, 2) for answer in answers],
    }


async def _run(
    engine: LLMEngine, image_token_id: int, repeats: int, seed: int, clients_at_once: Sequence[int]
) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    runs = []
    warm_up = min(16, max(clients_at_once))
    for kept in _BUDGETS:  # warm-up, not counted: memory is allocated, kernels are chosen
        await _measure(engine, _requests(warm_up, kept, image_token_id, random), warm_up)
    for repeat in range(repeats):
        for clients in clients_at_once:
            for kept in _BUDGETS if repeat % 2 else reversed(_BUDGETS):
                measured = await _measure(engine, _requests(_REQUESTS[clients], kept, image_token_id, random), clients)
                runs.append({"kept": kept, "clients": clients, "repeat": repeat, **measured})
                print(f"{clients} clients, {kept} tokens: {measured['seconds']:.2f} s", file=sys.stderr)
    return runs


def _child(engine: str, checkpoint: str, args: argparse.Namespace) -> None:
    """Loads one engine, measures, and prints the runs as the last line."""
    served = load(_settings(engine, checkpoint))
    served.engine.start()
    try:
        runs = asyncio.run(_run(served.engine, served.limits.image_token_id, args.repeats, args.seed, args.clients))
    finally:
        served.engine.stop()
    print(json.dumps(runs))


def _rounds(checkpoint: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Runs of all rounds, each engine in a process of its own."""
    for number in range(args.rounds):
        for engine in args.engines:
            print(f"round {number}: {engine}", file=sys.stderr)
            words = [engine, str(checkpoint), "--repeats", str(args.repeats)]
            words += ["--seed", str(args.seed + number), "--clients", *map(str, args.clients)]
            for run in run_child("benchmarks.engine", words, timeout_s=_TIMEOUT_S):
                yield {"engine": engine, "round": number, **run}


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("benchmarks.engine", __doc__)
    parser.add_argument("--rounds", type=positive, default=2, help="starts of each engine (default: %(default)s)")
    parser.add_argument("--repeats", type=positive, default=2, help="measurements of each round (default: %(default)s)")
    add_seed(parser, 0, "the requests")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES, help="(default: both)")
    parser.add_argument(
        "--clients",
        type=int,
        nargs="+",
        default=list(_REQUESTS),
        choices=list(_REQUESTS),
        metavar="N",
        help="numbers of clients",
    )
    parser.add_argument(
        "--width",
        type=int,
        default=engine_model.WIDTH,
        help="hidden size of the language model, a multiple of 64 (default: %(default)s)",
    )
    add_output(parser, rounds=1, repeats=1, clients=[1], engines=["transformers"], width=64)
    parser.add_argument("--child", nargs=2, metavar=("ENGINE", "CHECKPOINT"), help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the tables, and writes them and a plot into --out."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.child:
        engine, checkpoint = args.child
        _child(engine, checkpoint, args)
        return 0
    if "vllm" in args.engines and importlib.util.find_spec("vllm") is None:
        parser.error("the package vllm is not installed; `make test-vllm` sets up an environment that has it")
    with tempfile.TemporaryDirectory() as scratch:
        model = engine_model.write(Path(scratch), width=args.width)
        runs = list(_rounds(Path(scratch), args))
    result = {
        "provenance": provenance("benchmarks.engine", packages=["vllm"] if "vllm" in args.engines else []),
        "seed": args.seed,
        "model": model,
        "threads": _NUM_THREADS,
        "words": _NUM_WORDS,
        "answer_tokens": _ANSWER_TOKENS,
        "budgets": list(_BUDGETS),
        "runs": runs,
    }
    result["summary"] = summary(result)
    publish(args.out, "engine", result, markdown(result), partial(plot, result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
