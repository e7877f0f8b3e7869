"""Video-LLaVA's language model for vLLM, which lacks the family. Images and videos arrive as prompt embeddings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import SupportsLoRA, SupportsPP
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, init_vllm_registered_model, maybe_prefix

__all__ = ["VideoLlavaForConditionalGeneration"]


class VideoLlavaForConditionalGeneration(nn.Module, SupportsLoRA, SupportsPP):
    """Text model of `config.text_config`. The encoder service runs the towers, the LLM service the projector."""

    packed_modules_mapping: ClassVar = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
    # Prefixes of weights in the checkpoint, and those of this class; None for weights that are not loaded.
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            "model.language_model.": "language_model.model.",
            "lm_head.": "language_model.lm_head.",
            **{
                prefix + module: None
                for prefix in ("", "model.")
                for module in ("image_tower.", "video_tower.", "multi_modal_projector.")
            },
        }
    )

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.config = vllm_config.model_config.hf_config
        self.language_model = init_vllm_registered_model(
            vllm_config=vllm_config,
            hf_config=self.config.text_config,
            prefix=maybe_prefix(prefix, "language_model"),
        )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_input_ids(self, input_ids: torch.Tensor) -> Any:
        """[L, H] embeddings of ids [L]."""
        return self.language_model.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **_: object,
    ) -> Any:
        """[L, H] hidden states, or the intermediate tensors for the next pipeline stage."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: torch.Tensor) -> Any:
        """[L, V] logits of hidden states [L, H]."""
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Loads the weights of the language model; skips all others."""
        loaded: set[str] = AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)
        return loaded
