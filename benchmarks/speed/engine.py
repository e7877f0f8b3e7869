"""`python -m benchmarks.engine`: what each engine of the LLM service makes of pruned and unpruned requests.

Closed loops: N clients, each of which sends its next request when the last one is answered. Requests go to the
`LLMEngine` interface, without sockets; each brings a picture of its own, so that no prefix cache helps. One engine runs
at a time, in a process of its own: transformers, vLLM, transformers, vLLM, ... Inside a process pruned and
unpruned take turns.
Needs vLLM, and its CPU build here: the environment of `make test-vllm`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.checkpoints import engine_model
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from benchmarks.speed.engine_report import ENGINES, markdown, plot, summary
from llm_service.engines.base import Done, GenerationRequest, LLMEngine
from llm_service.prompts import Prompt, VisualTokens
from llm_service.sampling import SamplingParams
from llm_service.settings import LLMSettings
from llm_service.startup import load

__all__ = ["main"]

# Clients, and how many requests they send together in one measurement.
_REQUESTS: Final = {1: 3, 4: 8, 16: 32, 64: 64}
_BUDGETS: Final = (576, 64)
_NUM_WORDS: Final = 40
_ANSWER_TOKENS: Final = 16
# vLLM's own choice on a CPU: it leaves a core to its processes that do not compute.
_NUM_THREADS: Final = max(1, (os.cpu_count() or 1) - 1)
_NEVER_S: Final = 3600.0
_TIMEOUT_S: Final = 1800.0


def _settings(engine: str, checkpoint: str) -> LLMSettings:
    """Both engines compute with the same threads and may hold all requests at once."""
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
    """Questions of the same length about pictures that never come twice."""
    patches = int(np.prod(engine_model.GRID))
    first_word = image_token_id + 1
    requests = []
    for _ in range(count):
        words = random.integers(first_word, first_word + 200, _NUM_WORDS)
        features = random.standard_normal((kept, engine_model.VISUAL_WIDTH), dtype=np.float32)
        positions = np.sort(random.permutation(patches)[:kept])
        prompt = Prompt(np.array([1, image_token_id, *words]), (VisualTokens(features, positions, engine_model.GRID),))
        sampling = SamplingParams(max_tokens=_ANSWER_TOKENS)
        requests.append(GenerationRequest(prompt, sampling, time.monotonic() + _NEVER_S))
    return requests


async def _answer(engine: LLMEngine, request: GenerationRequest) -> Done:
    async for event in engine.submit(request):
        if isinstance(event, Done):
            return event
    raise RuntimeError("the engine ended an answer without saying so")


async def _measure(engine: LLMEngine, requests: list[GenerationRequest], clients: int) -> dict[str, Any]:
    """All requests, `clients` of them at a time: how long it took, and every answer's first token."""
    waiting, answers = iter(requests), list[Done]()

    async def client() -> None:
        for request in waiting:
            answers.append(await _answer(engine, request))  # clients take turns

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
    for kept in _BUDGETS:  # not counted: memory is allocated, kernels are chosen
        await _measure(engine, _requests(warm_up, kept, image_token_id, random), warm_up)
    for repeat in range(repeats):
        for clients in clients_at_once:
            for kept in _BUDGETS if repeat % 2 else reversed(_BUDGETS):
                measured = await _measure(engine, _requests(_REQUESTS[clients], kept, image_token_id, random), clients)
                runs.append({"kept": kept, "clients": clients, "repeat": repeat, **measured})
                print(f"{clients} clients, {kept} tokens: {measured['seconds']:.2f} s", file=sys.stderr)
    return runs


def _child(engine: str, checkpoint: str, args: argparse.Namespace) -> None:
    """Loads one engine, measures, and writes the runs to the last line of stdout."""
    served = load(_settings(engine, checkpoint))
    served.engine.start()
    try:
        runs = asyncio.run(_run(served.engine, served.limits.image_token_id, args.repeats, args.seed, args.clients))
    finally:
        served.engine.stop()
    print(json.dumps(runs))


def _rounds(checkpoint: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for number in range(args.rounds):
        for engine in args.engines:
            print(f"round {number}: {engine}", file=sys.stderr)
            words = ["--child", engine, str(checkpoint), "--repeats", str(args.repeats)]
            words += ["--seed", str(args.seed + number), "--clients", *map(str, args.clients)]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.engine", *words],
                stdout=subprocess.PIPE,
                text=True,
                timeout=_TIMEOUT_S,
                check=True,
            )
            for run in json.loads(done.stdout.splitlines()[-1]):
                yield {"engine": engine, "round": number, **run}


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the tables, and writes them and a plot where --out says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="how often each engine is started (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="measurements a round (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES, help="(default: both)")
    parser.add_argument(
        "--clients", type=int, nargs="+", default=list(_REQUESTS), choices=list(_REQUESTS), metavar="N", help="at once"
    )
    parser.add_argument(
        "--width",
        type=int,
        default=engine_model.WIDTH,
        help="hidden size of the language model, a multiple of 64 (default: %(default)s)",
    )
    add_output(parser, rounds=1, repeats=1, clients=[1], engines=["transformers"], width=64)
    parser.add_argument("--child", nargs=2, metavar=("ENGINE", "CHECKPOINT"), help=argparse.SUPPRESS)
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
