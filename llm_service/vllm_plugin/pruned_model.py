"""Embeddings and position ids of pruned images and videos, shared by the families of Qwen."""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import SupportsMRoPE, SupportsMultiModal
from vllm.multimodal.inputs import MultiModalFeatureSpec

from llm_service.vllm_plugin.payload import MODALITIES
from llm_service.vllm_plugin.position_ids import is_pruned, prompt_position_ids

__all__ = ["PrunedModel"]


class PrunedModel(SupportsMultiModal, SupportsMRoPE):
    """Model for pruned payloads. In the bases of a family's class it comes before vLLM's."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        if self.is_multimodal_pruning_enabled:
            raise ValueError("video_pruning_rate must be 0: visual tokens are pruned before they reach vLLM")

    def embed_multimodal(self, **kwargs: object) -> Any:
        """Embeddings of each pruned image or video; unpruned ones as in vLLM. A call has one modality."""
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
        """Position ids [3, L] of the prompt, and the difference between position id and token index after it."""
        if not any(is_pruned(feature.modality, feature.data) for feature in mm_features):
            whole: tuple[torch.Tensor, int] = super().get_mrope_input_positions(input_tokens, mm_features)
            return whole
        items = [(feature.mm_position.offset, feature.modality, feature.data) for feature in mm_features]
        position_ids, next_position_id = prompt_position_ids(len(input_tokens), items, self.config.vision_config)
        return torch.from_numpy(position_ids), next_position_id - len(input_tokens)
