"""Model classes for vLLM: Qwen2.5-VL that reads pruned visual tokens at the positions that they had in their grids, and
the language model of Video-LLaVA.

vLLM loads them in each of its processes through the entry point `vllm.general_plugins`. They are architectures of their
own beside vLLM's, which stay what they are; `hf_overrides={"architectures": [ARCHITECTURE]}` chooses one for a
checkpoint.
"""

from __future__ import annotations

from typing import Final

from llm_service.vllm_plugin.orphans import end_with_parent

__all__ = ["ARCHITECTURE", "VIDEO_LLAVA_ARCHITECTURE", "register"]

ARCHITECTURE: Final = "FoveaQwen2_5_VLForConditionalGeneration"
VIDEO_LLAVA_ARCHITECTURE: Final = "FoveaVideoLlavaForConditionalGeneration"


def register() -> None:
    """Makes the architectures known to vLLM; a class is imported where it is first used. Harmless to repeat."""
    from vllm import ModelRegistry

    end_with_parent()
    models = "llm_service.vllm_plugin"
    ModelRegistry.register_model(ARCHITECTURE, f"{models}.model:Qwen2_5_VLForConditionalGeneration")
    ModelRegistry.register_model(VIDEO_LLAVA_ARCHITECTURE, f"{models}.video_llava:VideoLlavaForConditionalGeneration")
