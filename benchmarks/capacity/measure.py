"""Measures a profile on this machine: the model of `benchmarks.scaled`, in CPU time, so that others do not disturb.

The towers, the prefill and the decoding run in this process over a grid of batches, and a line is fitted to each. What
a call costs besides comes from the running services: the CPU time of their processes for an answer, less the above.
There a further picture costs more than in a warm loop, so the encoder's cost of a picture is taken from them as well.
"""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks import scaled
from benchmarks.capacity.profile import Decode, Encode, Prefill, Profile
from benchmarks.clients import Asked, open_loop, pictures
from benchmarks.cpu_caps import cpu_seconds
from benchmarks.deployment import FLAGS
from encoder_service import models
from encoder_service.engine import EncodeRequest, Engine
from encoder_service.feature_cache import FeatureCache
from encoder_service.models.base import LoadOptions
from encoder_service.pruners import PRUNERS
from fovea.stack import Stack, free_port
from llm_service.engines.runner import ModelRunner
from llm_service.models import load_model
from llm_service.models.base import ModelInputs

__all__ = ["measure"]

_STARTUP_S: Final = 240.0
_KEEP_RATIO: Final = 0.111
_TEXT_IDS: Final = tuple(range(1, 9))
_LONG_ANSWER: Final = 41
# Questions and pictures in each; rows and positions.
_ENCODE_GRID: Final = ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1))
_PREFILL_GRID: Final = ((1, 40), (1, 90), (1, 160), (2, 90), (4, 90), (4, 160))
_DECODE_GRID: Final = ((1, 90), (1, 250), (2, 90), (4, 90), (4, 250))
_STEPS: Final = 12


def _fit(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Coefficients of a line that are not below 0: those that would be are left out (relative errors count)."""
    matrix, target = np.array(rows, dtype=float), np.array(seconds)
    kept = list(range(matrix.shape[1]))
    while True:
        weighted = matrix[:, kept] / target[:, None]
        found, *_ = np.linalg.lstsq(weighted, np.ones(len(target)), rcond=None)
        if (found >= 0).all() or len(kept) == 1:
            break
        kept.pop(int(np.argmin(found * matrix[:, kept].mean(axis=0))))
    values = np.zeros(matrix.shape[1])
    values[kept] = np.maximum(found, 0)
    return [float(value) for value in values]


def _cpu_s(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def _median_of(repeats: int, action: Callable[[], object]) -> float:
    action()
    return statistics.median(_cpu_s(action) for _ in range(repeats))


def _encoder(model: Path, text_tower: Path, files: Sequence[bytes], repeats: int) -> tuple[Encode, float]:
    """The forward, and the preparation of a picture."""
    engine = Engine(
        models.load(str(model), LoadOptions(text_tower=str(text_tower), device="cpu", dtype="float32")),
        FeatureCache(0),
        max_batch_size=max(questions * count for questions, count in _ENCODE_GRID),
        max_image_bytes=2**24,
        max_image_pixels=10**7,
    )
    pruner = PRUNERS["desap"].bind({})

    def request(first: int, count: int) -> EncodeRequest:
        return EncodeRequest(tuple(files[first : first + count]), _TEXT_IDS, pruner, keep_ratio=_KEEP_RATIO)

    def forward(questions: int, count: int) -> float:
        batch = [engine.prepare(request(i * count, count)) for i in range(questions)]
        return _median_of(repeats, lambda: engine.run(batch))

    seconds = [forward(*at) for at in _ENCODE_GRID]
    rows = [(1, questions, questions * count) for questions, count in _ENCODE_GRID]
    fixed, per_question, per_picture = _fit(rows, seconds)
    prepare = _median_of(repeats, lambda: engine.prepare(request(0, 4))) / 4
    return Encode(0.0, fixed, per_question, per_picture), prepare


def _language_model(model: Path, repeats: int) -> tuple[Prefill, Decode]:
    language_model = load_model(model, device=torch.device("cpu"), dtype="float32", attn_implementation="sdpa")
    width = language_model.causal_lm.config.hidden_size

    def newcomers(rows: int, length: int) -> list[ModelInputs]:
        embeds = 0.02 * torch.randn(length, width)
        return [ModelInputs(embeds, torch.arange(length), length) for _ in range(rows)]

    def prefill(rows: int, length: int) -> float:
        batch = newcomers(rows, length)
        return _median_of(repeats, lambda: ModelRunner(language_model).prefill(batch))

    def decode(rows: int, length: int) -> float:
        runner = ModelRunner(language_model)
        runner.prefill(newcomers(rows, length))
        runner.decode([5] * rows)
        return statistics.median(_cpu_s(lambda: runner.decode([5] * rows)) for _ in range(_STEPS * repeats))

    with torch.inference_mode():
        prefills = [prefill(*at) for at in _PREFILL_GRID]
        steps = [decode(*at) for at in _DECODE_GRID]
    terms = [(1, rows, rows * length, rows * length**2) for rows, length in _PREFILL_GRID]
    fixed, per_row, per_token, per_square = _fit(terms, prefills)
    fitted = Prefill(0.0, fixed, per_row, per_token, per_square)
    fixed, per_row, per_position = _fit([(1, rows, rows * length) for rows, length in _DECODE_GRID], steps)
    return fitted, Decode(0.0, fixed, per_row, per_position)


def _services(model: Path, text_tower: Path, files: Sequence[bytes], answers: int, log: Path) -> dict[str, Any]:
    """CPU seconds of each service for an answer of each kind, one at a time, and what the last answer of each used."""
    kinds = {"one": Asked(1, (1,)), "two pictures": Asked(2, (1,)), "long": Asked(1, (_LONG_ANSWER,))}
    stack = Stack(
        str(model),
        str(text_tower),
        listen=f"127.0.0.1:{free_port()}",
        flags=FLAGS,
        environment={"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        log_to=log,
    )
    found: dict[str, Any] = {}
    with stack:
        stack.wait_ready(_STARTUP_S)

        def used() -> dict[str, float]:
            return {name: cpu_seconds(process.pid) for name, process in stack.processes.items()}

        def ask(asked: Asked, count: int) -> Any:
            # One after the other: each arrives long after the one before it has ended.
            loads = [asyncio.run(open_loop(stack.url, asked, files[2 * i :], arrivals=[0.0])) for i in range(count)]
            return loads[-1].usage

        for name, asked in kinds.items():
            ask(asked, 3)
            before = used()
            usage = ask(asked, answers)
            found[name] = {"usage": usage} | {key: (value - before[key]) / answers for key, value in used().items()}
    return found


def measure(folder: Path, *, repeats: int = 9, answers: int = 30) -> Profile:
    """The profile of `benchmarks.scaled` on this machine.

    Args:
        folder: For the checkpoint and logs.
        repeats: Of each batch.
        answers: Of each kind that the running services give.
    """
    torch.set_num_threads(1)
    model, text_tower = scaled.write(folder)
    files = pictures(max(2 * answers + 2, 16), seed=1)
    encode, prepare = _encoder(model, text_tower, files, repeats)
    prefill, decode = _language_model(model, repeats)
    services = _services(model, text_tower, files, answers, folder / "log")
    one, two, long = services["one"], services["two pictures"], services["long"]
    further = two["encoder_service"] - one["encoder_service"] - prepare
    encode = dataclasses.replace(encode, per_picture=max(further, encode.per_picture))
    usage = one["usage"]
    text_tokens = usage["prompt_tokens"] - usage["visual_tokens_kept"]
    steps = sum(decode.seconds(1, usage["prompt_tokens"] + i) for i in range(_LONG_ANSWER - 1))
    per_token = max((long["llm_service"] - one["llm_service"] - steps) / (_LONG_ANSWER - 1), 0.0)
    return Profile(
        name=f"a random LLaVA of 576 visual tokens ({usage['visual_tokens_kept']} kept) on this machine's CPU",
        origin="measured",
        notes=(
            "CPU time of one thread; medians",
            f"CPU seconds of the services for an answer: {_readable(services)}",
        ),
        shares_cores=True,
        encode=encode,
        prefill=prefill,
        decode=decode,
        prepare_per_picture=prepare,
        encoder_call=max(one["encoder_service"] - prepare - encode.seconds(1, 1), 0.0),
        llm_call=max(one["llm_service"] - prefill.seconds(1, usage["prompt_tokens"]) - per_token, 0.0),
        llm_per_token=per_token,
        gateway_request=one["gateway"],
        gateway_per_picture=max(two["gateway"] - one["gateway"], 0.0),
        gateway_per_token=max(long["gateway"] - one["gateway"], 0.0) / (_LONG_ANSWER - 1),
        text_tokens=text_tokens,
        visual_tokens=usage["visual_tokens_kept"],
        request_bytes=round(statistics.mean(map(len, files))),
        token_bytes=usage["wire_bytes"] / usage["visual_tokens_kept"],
    )


def _readable(services: dict[str, Any]) -> str:
    return "; ".join(
        f"{kind}: " + ", ".join(f"{name} {seconds:.4f}" for name, seconds in values.items() if name != "usage")
        for kind, values in services.items()
    )
