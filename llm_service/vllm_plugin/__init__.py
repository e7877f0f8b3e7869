"""Plugin with model classes for vLLM: Qwen2.5-VL with pruned visual tokens, and the language model of Video-LLaVA.

vLLM loads the plugin in each of its processes through the entry point `vllm.general_plugins`. The classes are new
architectures; vLLM's own are not changed. `hf_overrides={"architectures": [ARCHITECTURE]}` selects one.
"""

from __future__ import annotations

from typing import Final

from llm_service.vllm_plugin.parent_watch import exit_with_parent

__all__ = ["ARCHITECTURE", "VIDEO_LLAVA_ARCHITECTURE", "register"]

ARCHITECTURE: Final = "FoveaQwen2_5_VLForConditionalGeneration"
VIDEO_LLAVA_ARCHITECTURE: Final = "FoveaVideoLlavaForConditionalGeneration"


def register() -> None:
    """Registers the architectures with vLLM, which imports a class on first use. May be called repeatedly."""
    from vllm import ModelRegistry

    exit_with_parent()
    package = "llm_service.vllm_plugin"
    ModelRegistry.register_model(ARCHITECTURE, f"{package}.model:Qwen2_5_VLForConditionalGeneration")
    ModelRegistry.register_model(VIDEO_LLAVA_ARCHITECTURE, f"{package}.video_llava:VideoLlavaForConditionalGeneration")
