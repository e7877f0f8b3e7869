"""vLLM's Qwen2.5-VL, and what it makes of pruned pictures and videos."""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.model_executor.models import qwen2_5_vl
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFeatureSpec

from llm_service.vllm_plugin.payload import MODALITIES
from llm_service.vllm_plugin.processing import MultiModalProcessor, ProcessingInfo
from llm_service.vllm_plugin.runs import is_pruned, positions_of

__all__ = ["Qwen2_5_VLForConditionalGeneration"]


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor, info=ProcessingInfo, dummy_inputs=qwen2_5_vl.Qwen2_5_VLDummyInputsBuilder
)
class Qwen2_5_VLForConditionalGeneration(qwen2_5_vl.Qwen2_5_VLForConditionalGeneration):  # noqa: N801  # vLLM's own
    """Has the name of its parent because vLLM's speculative decoding goes by the name of the class."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        if self.is_multimodal_pruning_enabled:
            raise ValueError("video_pruning_rate prunes inside vLLM; with tokens that are pruned already it must be 0")

    def embed_multimodal(self, **kwargs: object) -> Any:
        """The kept tokens of each picture or video; all others as in vLLM, which calls this for one kind at a time."""
        for modality in MODALITIES:
            counts = kwargs.get(f"{modality}_num_tokens")
            if isinstance(counts, torch.Tensor):
                embeds = kwargs[f"{modality}_embeds"]
                assert isinstance(embeds, torch.Tensor)
                return embeds.to(self.model_config.dtype).split(counts.tolist())
        return super().embed_multimodal(**kwargs)

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[MultiModalFeatureSpec]
    ) -> tuple[torch.Tensor, int]:
        """Positions [3, L] of the prompt, and what to add to an index among all tokens to go on from there."""
        if not any(is_pruned(feature.modality, feature.data) for feature in mm_features):
            whole: tuple[torch.Tensor, int] = super().get_mrope_input_positions(input_tokens, mm_features)
            return whole
        items = [(feature.mm_position.offset, feature.modality, feature.data) for feature in mm_features]
        positions, next_position = positions_of(len(input_tokens), items, self.config.vision_config)
        return torch.from_numpy(positions), next_position - len(input_tokens)
