"""Video-LLaVA's language model in vLLM, which does not list the family. Pictures and videos arrive as embeddings."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from vllm.model_executor.models.llava import LlavaForConditionalGeneration
from vllm.model_executor.models.utils import AutoWeightsLoader

__all__ = ["VideoLlavaForConditionalGeneration"]

# As on the hub, and as transformers 5 names them.
_VISUAL = ["image_tower.", "video_tower.", "multi_modal_projector.", "model.image_tower.", "model.video_tower."]


class VideoLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    """LLaVA's class without what stands before its language model, which is the same."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Loads the language model and skips all else."""
        loader = AutoWeightsLoader(self, skip_prefixes=_VISUAL)
        loaded: set[str] = loader.load_weights(weights, mapper=self.hf_to_vllm_mapper)
        return loaded
