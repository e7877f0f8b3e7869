"""vLLM's Qwen3-VL, extended to pruned images and frames, and to DeepStack planes that arrive with them."""

from __future__ import annotations

import torch
from vllm.config import VllmConfig
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.models import qwen3_vl
from vllm.model_executor.models.utils import PPMissingLayer
from vllm.multimodal import MULTIMODAL_REGISTRY

from llm_service.vllm_plugin.payload import Modality
from llm_service.vllm_plugin.position_ids import PlacedItem, is_pruned
from llm_service.vllm_plugin.processing import PrunedDataParser, PrunedProcessingInfo, PrunedProcessor
from llm_service.vllm_plugin.pruned_model import PrunedModel

__all__ = ["Qwen3VLForConditionalGeneration"]


class DataParser(PrunedDataParser, qwen3_vl.Qwen3VLMultiModalDataParser):
    """See `PrunedDataParser`."""


class ProcessingInfo(PrunedProcessingInfo, qwen3_vl.Qwen3VLProcessingInfo):
    """See `PrunedProcessingInfo`."""

    parser_class = DataParser
    has_frame_items = True


class MultiModalProcessor(PrunedProcessor, qwen3_vl.Qwen3VLMultiModalProcessor):
    """See `PrunedProcessor`. A pruned item of modality `video` is one frame, which may have no tokens."""

    def _ids_after(self, modality: Modality) -> list[int]:
        # vLLM has no item without a token of the prompt. A frame that keeps none is held by its end of vision, so that
        # position ids and the prefix cache know of it.
        return [self.info.get_hf_config().vision_end_token_id] if modality == "video" else []

    def _check_items(self, items: list[PlacedItem]) -> None:
        if any(modality == "video" and not is_pruned(modality, item) for _, modality, item in items):
            raise ValueError(
                "a prompt with pruned images cannot have a video of vLLM's own kind, whose times vLLM writes; pass its"
                " frames as multi_modal_data does"
            )


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor, info=ProcessingInfo, dummy_inputs=qwen3_vl.Qwen3VLDummyInputsBuilder
)
class Qwen3VLForConditionalGeneration(PrunedModel, qwen3_vl.Qwen3VLForConditionalGeneration):
    """Qwen3-VL for pruned payloads. Named like its parent, since vLLM's speculative decoding checks class names."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        if not self.use_deepstack:
            self._enable_deepstack(vllm_config.scheduler_config.max_num_batched_tokens)
        self._extend_rotary_table()

    def _enable_deepstack(self, max_num_tokens: int) -> None:
        """Makes the buffers of planes, which vLLM leaves out where it loads no tower."""
        num_planes, width = len(self.config.vision_config.deepstack_visual_indexes), self.config.text_config.hidden_size
        self.use_deepstack = num_planes > 0
        self.deepstack_num_level = num_planes
        self.multiscale_dim = num_planes * self.visual_dim
        self.deepstack_input_embeds = [torch.zeros(max_num_tokens, width) for _ in range(num_planes)]
        self.deepstack_input_embeds_num_tokens = 0

    def _extend_rotary_table(self) -> None:
        """Doubles the rotary table: room for a prompt up to the last position, and an answer as long as the context.

        vLLM's table ends with the context, since without pruning no position exceeds the number of tokens.
        """
        text = self.config.text_config
        for layer in self.language_model.model.layers:
            if not isinstance(layer, PPMissingLayer):
                attention = layer.self_attn
                attention.rotary_emb = get_rope(
                    attention.head_dim,
                    max_position=text.max_position_embeddings,
                    rope_parameters=text.rope_parameters,
                    mrope_positions_factor=2,
                )
