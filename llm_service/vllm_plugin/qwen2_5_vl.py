"""vLLM's Qwen2.5-VL, extended to pruned images and videos."""

from __future__ import annotations

from vllm.model_executor.models import qwen2_5_vl
from vllm.multimodal import MULTIMODAL_REGISTRY

from llm_service.vllm_plugin.processing import PrunedDataParser, PrunedProcessingInfo, PrunedProcessor
from llm_service.vllm_plugin.pruned_model import PrunedModel

__all__ = ["Qwen2_5_VLForConditionalGeneration"]


class ProcessingInfo(PrunedProcessingInfo, qwen2_5_vl.Qwen2_5_VLProcessingInfo):
    """See `PrunedProcessingInfo`."""

    parser_class = PrunedDataParser


class MultiModalProcessor(PrunedProcessor, qwen2_5_vl.Qwen2_5_VLMultiModalProcessor):
    """See `PrunedProcessor`."""


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor, info=ProcessingInfo, dummy_inputs=qwen2_5_vl.Qwen2_5_VLDummyInputsBuilder
)
class Qwen2_5_VLForConditionalGeneration(PrunedModel, qwen2_5_vl.Qwen2_5_VLForConditionalGeneration):  # noqa: N801
    """Qwen2.5-VL for pruned payloads. Named like its parent, since vLLM's speculative decoding checks class names."""
