"""Process that loads a service's part of a checkpoint, touches it, and prints time and memory as JSON.

It imports nothing of the benchmarks, so that it can run the services of another checkout.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil
import torch
from torch import nn

_NUM_QUESTIONS: Final = 32
_QUESTION_IDS: Final = 24


def _loader(service: str) -> Callable[[str, str], Any]:
    """Function that loads a checkpoint with its text tower. The code of all families is imported before it runs."""
    if service == "llm":
        from llm_service.models import load_model

        options: dict[str, Any] = {"device": torch.device("cpu"), "dtype": "bfloat16", "attn_implementation": "sdpa"}
        return lambda checkpoint, _: load_model(Path(checkpoint), **options)
    from encoder_service import models
    from encoder_service.models.base import LoadOptions

    for module, _ in models.FAMILIES.values():
        importlib.import_module(module)
    return lambda checkpoint, text_tower: models.load(
        checkpoint, LoadOptions(text_tower=text_tower, device="cpu", dtype="bfloat16")
    )


def _tensors(loaded: Any) -> list[torch.Tensor]:
    """All tensors of a service's model, which lie on its device. Tied ones count once."""
    attributes = vars(loaded).values()
    parameters = [p for value in attributes if isinstance(value, nn.Module) for p in value.parameters()]
    tensors = (*parameters, *(value for value in attributes if isinstance(value, torch.Tensor)))
    return list({tensor.data_ptr(): tensor for tensor in tensors}.values())


def _question_times(loaded: Any) -> list[float]:
    """Seconds to read questions of random words, for families that read them as embeddings of the language model."""
    if not getattr(loaded, "reads_language_model_ids", False):
        return []
    seconds = []
    for question in torch.randint(loaded.text_vocab_size, (_NUM_QUESTIONS, _QUESTION_IDS)).tolist():
        start = time.perf_counter()
        loaded.encode_texts([question])
        seconds.append(time.perf_counter() - start)
    return seconds


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(service: str, checkpoint: str, text_tower: str) -> None:
    """Measures; prints the figures."""
    load = _loader(service)
    empty = _peak_bytes()
    start = time.perf_counter()
    loaded = load(checkpoint, text_tower)
    load_s = time.perf_counter() - start
    tensors = _tensors(loaded)
    with torch.inference_mode():
        for tensor in tensors:
            tensor.view(-1).view(torch.int16).max()
    question_s = _question_times(loaded)
    memory = {
        "tensor_bytes": sum(tensor.nbytes for tensor in tensors),
        "empty_bytes": empty,
        "peak_bytes": _peak_bytes(),
        "uss_bytes": psutil.Process().memory_full_info().uss,
    }
    print(json.dumps({"load_s": load_s, "question_s": question_s, **memory}))


if __name__ == "__main__":
    main(*sys.argv[1:])
