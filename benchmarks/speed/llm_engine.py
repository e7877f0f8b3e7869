"""The LLM service's engine in this process, with answers that never end, and requests of random token ids."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from tokenizers import Tokenizer

from llm_service.engine.base import GenerationRequest
from llm_service.engine.launching import launching_on
from llm_service.engine.slots import SlotClass
from llm_service.engine.transformers import TransformersEngine
from llm_service.models.base import VisionLanguageModel
from llm_service.prompts import Prompt
from llm_service.sampling import SamplingParams

__all__ = ["add_cuda_graphs", "build_engine", "graphs_in_words", "random_requests"]

_FAR_DEADLINE_S: Final = 1e6
_SPECIAL_IDS: Final = 10  # ids at both ends of the vocabulary that no prompt has


def add_cuda_graphs(parser: argparse.ArgumentParser) -> None:
    """Adds --cuda-graphs, which a CPU ignores."""
    parser.add_argument(
        "--cuda-graphs", choices=("off", "auto"), default="auto", help="as the LLM service's flag (default: auto)"
    )


def graphs_in_words(result: Mapping[str, Any]) -> str:
    """Part of a report's sentence: whether the engine had CUDA graphs; empty on a CPU."""
    return "" if result["device"] == "cpu" else f"; CUDA graphs: {result['cuda_graphs']}"


def build_engine(
    model: VisionLanguageModel, tokenizer: Tokenizer, *, max_batch_size: int, max_model_len: int, cuda_graphs: str
) -> TransformersEngine:
    """An engine whose answers end with max_tokens alone. It is not started: the caller runs its steps.

    Args:
        model: The model.
        tokenizer: Tokenizer of its answers.
        max_batch_size: Most running sequences, each of which has a slot.
        max_model_len: Positions of a slot.
        cuda_graphs: Value of --cuda-graphs.
    """
    return TransformersEngine(
        model,
        tokenizer,
        eos_token_ids=frozenset(),
        max_model_len=max_model_len,
        max_batch_size=max_batch_size,
        max_batch_delay_ms=0,
        max_queue_size=max_batch_size,
        slot_classes=[SlotClass(max_model_len, max_batch_size)],
        max_prefill_tokens=max_model_len * max_batch_size,
        launching=launching_on(model.device, graphs=cuda_graphs == "auto"),
    )


def random_requests(count: int, length: int, vocab_size: int, *, max_tokens: int) -> list[GenerationRequest]:
    """Prompts of `length` random ids, with a deadline that never passes."""
    random = np.random.default_rng(0)
    return [
        GenerationRequest(
            Prompt(random.integers(_SPECIAL_IDS, vocab_size - _SPECIAL_IDS, length), ()),
            SamplingParams(max_tokens=max_tokens),
            deadline=time.monotonic() + _FAR_DEADLINE_S,
        )
        for _ in range(count)
    ]
