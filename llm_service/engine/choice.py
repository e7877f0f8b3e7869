"""Choice of the engine for `--engine auto`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from llm_service.vllm_plugin import ARCHITECTURES

__all__ = ["EngineName", "choose_engine"]

EngineName = Literal["transformers", "vllm"]


def choose_engine(
    *, family: str, has_cuda: bool, transformers_only: str | None, import_vllm: Callable[[], object]
) -> tuple[EngineName, str]:
    """The engine, and the reason in words.

    vLLM is made for GPUs: it has paged attention, and kernels that this service's own engine lacks.

    Args:
        family: Family of the checkpoint.
        has_cuda: Whether the model will be on a CUDA device.
        transformers_only: Flag that is set and that only the transformers engine has; None for none.
        import_vllm: Function that imports vLLM's engine; called only if nothing else decides.
    """
    if transformers_only is not None:
        return "transformers", f"{transformers_only} is set, which vLLM does not have"
    if not has_cuda:
        return "transformers", "the model is not on a CUDA device"
    if family not in ARCHITECTURES:
        return "transformers", f"vLLM does not serve the family {family!r}"
    try:
        import_vllm()
    except ImportError as error:
        return "transformers", f"vLLM cannot be imported ({error})"
    return "vllm", "there are a CUDA device and vLLM"
