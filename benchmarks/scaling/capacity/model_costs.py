"""Costs of the model of `checkpoints/scaled.py` in this process: a line fitted to the CPU time of many batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks.scaling.capacity.profile import Decode, Encode, Prefill
from encoder_service import models
from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.feature_cache import FeatureCache
from encoder_service.engine.request_media import EncodeRequest
from encoder_service.models.base import LoadOptions
from encoder_service.pruners import PRUNERS
from fovea.budget import Budget
from llm_service.engine.model_runner import ModelRunner
from llm_service.engine.slot_cache import SlotCache
from llm_service.engine.slot_prefill import SlotInputs
from llm_service.engine.slots import Slot, SlotClass
from llm_service.models import load_model
from llm_service.models.base import ModelInputs

__all__ = ["KEEP_RATIO", "PRUNER", "encoder_costs", "fit", "language_model_costs"]

PRUNER: Final = "desap"
KEEP_RATIO: Final = 0.111
_TEXT_IDS: Final = tuple(range(1, 9))
# Questions and images of each; sequences and positions.
_ENCODE_GRID: Final = ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1))
_PREFILL_GRID: Final = ((1, 40), (1, 90), (1, 160), (2, 90), (4, 90), (4, 160))
_DECODE_GRID: Final = ((1, 90), (1, 250), (2, 90), (4, 90), (4, 250))
_SHORTER: Final = 3  # positions by which each sequence is shorter than the one before it, as batches in use are padded
_STEPS: Final = 12


def fit(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Coefficients of a line by least squares of the relative errors; terms with a negative one are left out."""
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


def encoder_costs(model: Path, text_tower: Path, files: Sequence[bytes], repeats: int) -> tuple[Encode, float]:
    """Costs of the encoder's forward, and seconds of preparing an image."""
    engine = EncoderEngine(
        models.load(str(model), LoadOptions(text_tower=str(text_tower), device="cpu", dtype="float32")),
        FeatureCache(0),
        max_batch_size=max(questions * count for questions, count in _ENCODE_GRID),
        max_image_bytes=2**24,
        max_image_pixels=10**7,
    )
    pruner = PRUNERS[PRUNER].bind({})

    def request(first: int, count: int) -> EncodeRequest:
        return EncodeRequest(tuple(files[first : first + count]), _TEXT_IDS, pruner, Budget.ratio(KEEP_RATIO))

    def forward(questions: int, count: int) -> float:
        batch = [engine.prepare(request(i * count, count)) for i in range(questions)]
        return _median_of(repeats, lambda: engine.run(batch))

    seconds = [forward(*at) for at in _ENCODE_GRID]
    rows = [(1, questions, questions * count) for questions, count in _ENCODE_GRID]
    fixed, per_question, per_image = fit(rows, seconds)
    prepare = _median_of(repeats, lambda: engine.prepare(request(0, 4))) / 4
    return Encode(0.0, fixed, per_question, per_image), prepare


def language_model_costs(model: Path, repeats: int) -> tuple[Prefill, Decode]:
    """Costs of prefill and decoding of sequences of different lengths, without sending tokens."""
    language_model = load_model(model, device=torch.device("cpu"), dtype="float32", attn_implementation="sdpa")
    width = language_model.causal_lm.config.hidden_size

    def new_sequences(count: int, length: int) -> list[SlotInputs]:
        lengths = [length - _SHORTER * number for number in range(count)]
        inputs = [ModelInputs(0.02 * torch.randn(size, width), torch.arange(size), size) for size in lengths]
        return [SlotInputs(prompt, Slot(0, index)) for index, prompt in enumerate(inputs)]

    def new_runner(count: int, length: int) -> ModelRunner:
        cache = SlotCache.for_model(language_model, [SlotClass(length + 1 + _STEPS * repeats, count)])
        return ModelRunner(language_model, cache, few_sizes=False)

    def prefill(count: int, length: int) -> float:
        batch = new_sequences(count, length)
        runner = new_runner(count, length)

        def run() -> None:
            runner.clear()
            runner.prefill(batch)

        return _median_of(repeats, run)

    def decode(count: int, length: int) -> float:
        runner = new_runner(count, length)
        runner.prefill(new_sequences(count, length))
        token_ids = torch.full((count,), 5)
        runner.decode(token_ids)
        return statistics.median(_cpu_s(lambda: runner.decode(token_ids)) for _ in range(_STEPS * repeats))

    with torch.inference_mode():
        prefills = [prefill(*at) for at in _PREFILL_GRID]
        steps = [decode(*at) for at in _DECODE_GRID]
    terms = [(1, count, count * length, count * length**2) for count, length in _PREFILL_GRID]
    fitted = Prefill(0.0, *fit(terms, prefills))
    fixed, per_sequence, per_position = fit([(1, count, count * length) for count, length in _DECODE_GRID], steps)
    return fitted, Decode(0.0, fixed, per_sequence, per_position)
