"""Plugin with model classes for vLLM: Qwen2.5-VL and Qwen3-VL with pruned visual tokens, Video-LLaVA without towers.

vLLM loads the plugin in each of its processes through the entry point `vllm.general_plugins`. The classes are new
architectures; vLLM's own are not changed. `hf_overrides={"architectures": [ARCHITECTURE]}` selects one.
"""

from __future__ import annotations

from typing import Final

from llm_service.vllm_plugin.parent_watch import exit_with_parent

__all__ = ["ARCHITECTURE", "ARCHITECTURES", "QWEN3_ARCHITECTURE", "VIDEO_LLAVA_ARCHITECTURE", "register"]

ARCHITECTURE: Final = "FoveaQwen2_5_VLForConditionalGeneration"
QWEN3_ARCHITECTURE: Final = "FoveaQwen3VLForConditionalGeneration"
VIDEO_LLAVA_ARCHITECTURE: Final = "FoveaVideoLlavaForConditionalGeneration"

ARCHITECTURES: Final[dict[str, str | None]] = {
    "llava": None,
    "llava_next": None,
    "video_llava": VIDEO_LLAVA_ARCHITECTURE,
    "qwen2_5_vl": ARCHITECTURE,
    "qwen3_vl": QWEN3_ARCHITECTURE,
}
"""Architecture of each family that vLLM serves here; None where vLLM's own class does."""


def register() -> None:
    """Registers the architectures with vLLM, which imports a class on first use. May be called repeatedly."""
    from vllm import ModelRegistry

    exit_with_parent()
    package = "llm_service.vllm_plugin"
    ModelRegistry.register_model(ARCHITECTURE, f"{package}.qwen2_5_vl:Qwen2_5_VLForConditionalGeneration")
    ModelRegistry.register_model(QWEN3_ARCHITECTURE, f"{package}.qwen3_vl:Qwen3VLForConditionalGeneration")
    ModelRegistry.register_model(VIDEO_LLAVA_ARCHITECTURE, f"{package}.video_llava:VideoLlavaForConditionalGeneration")
