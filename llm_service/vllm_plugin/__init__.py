"""A model class for vLLM: Qwen2.5-VL that reads pruned visual tokens at the positions that they had in their grids.

vLLM loads it in each of its processes through the entry point `vllm.general_plugins`. It is an architecture of its own
beside vLLM's, which stays what it is; `hf_overrides={"architectures": [ARCHITECTURE]}` chooses it for a checkpoint.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ARCHITECTURE", "register"]

ARCHITECTURE: Final = "FoveaQwen2_5_VLForConditionalGeneration"


def register() -> None:
    """Makes the architecture known to vLLM; the class is imported where it is first used. Harmless to repeat."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(ARCHITECTURE, "llm_service.vllm_plugin.model:Qwen2_5_VLForConditionalGeneration")
