"""Memory of the key-value cache: how much there is, and the slots that it holds."""

from __future__ import annotations

import logging
from typing import Final

import torch

from fovea.modeling.errors import CheckpointError
from fovea.processes.memory import available_memory
from llm_service.engine.slot_cache import CacheShape
from llm_service.engine.slots import SlotClass, divide_positions
from llm_service.models.base import VisionLanguageModel

__all__ = ["DEVICE_ROOM_BYTES", "slot_classes"]

log = logging.getLogger(__name__)

# GPU memory left free for prefills and for an encoder service, whose towers take 0.84 GiB (docs/performance.md).
DEVICE_ROOM_BYTES: Final = 4 * 2**30
_CPU_SHARE: Final = 0.5
# A cache with fewer positions would refuse nearly every request.
_FEWEST_POSITIONS: Final = 256


def slot_classes(
    model: VisionLanguageModel, kv_cache_gib: float, *, max_model_len: int, max_batch_size: int
) -> tuple[SlotClass, ...]:
    """Slots of a loaded model.

    Args:
        model: The model, whose weights are in memory already.
        kv_cache_gib: Maximum memory of the slots in GiB; 0 for the free memory less `DEVICE_ROOM_BYTES` on a GPU, and
            for half of it on a CPU.
        max_model_len: Positions of prompt and answer together.
        max_batch_size: Most running sequences.

    Raises:
        CheckpointError: The memory is too little to serve requests, or is not free.
    """
    shape = CacheShape.of(model.causal_lm.config, model.dtype)
    free = _free_bytes(model.device)
    budget = int(kv_cache_gib * 2**30) if kv_cache_gib else _default_bytes(model.device, free)
    positions = budget // shape.position_bytes
    fewest = min(_FEWEST_POSITIONS, max_model_len)
    if positions < fewest:
        raise CheckpointError(
            f"a key-value cache of {_gib(budget)} GiB holds {positions} positions; at least {fewest} are needed, which"
            f" take {_gib(fewest * shape.position_bytes)} GiB: set --kv-cache-gib, and free memory where it is missing"
        )
    classes = divide_positions(positions, max_model_len, max_batch_size)
    taken = sum(slot_class.length * slot_class.count for slot_class in classes) * shape.position_bytes
    if free is not None and taken > free:
        raise CheckpointError(
            f"the slots of kv_cache_gib {kv_cache_gib:g} take {_gib(taken)} GiB, and {_gib(free)} GiB are free on"
            f" {model.device.type}"
        )
    log.info("key-value cache: %s GiB of at most %s; slots: %s", _gib(taken), _gib(budget), _in_words(classes))
    if classes[-1].length < max_model_len:
        log.warning(
            "requests of more than %d positions are refused, although the context has %d; raise --kv-cache-gib",
            classes[-1].length,
            max_model_len,
        )
    return classes


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cpu":
        return available_memory()
    free: int = torch.cuda.mem_get_info(device)[0]
    return free


def _default_bytes(device: torch.device, free: int | None) -> int:
    if free is None:
        raise CheckpointError("the system does not say how much memory is free; set --kv-cache-gib")
    return int(free * _CPU_SHARE) if device.type == "cpu" else max(0, free - DEVICE_ROOM_BYTES)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.3g}"


def _in_words(classes: tuple[SlotClass, ...]) -> str:
    first, *others = (f"{slot_class.count} of {slot_class.length:,}" for slot_class in classes)
    return ", ".join([f"{first} positions", *others])
