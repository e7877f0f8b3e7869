"""Processing of payloads before vLLM's engine core: validation, splitting into items, expansion of placeholders.

The classes are shared by the families of Qwen. In the bases of a family's class they come before vLLM's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from transformers import BatchFeature
from vllm.exceptions import VLLMClientError
from vllm.inputs import MultiModalInput
from vllm.model_executor.models.qwen2_vl import Qwen2VLMultiModalDataParser, Qwen2VLProcessingInfo
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import DictEmbeddingItems, ModalityDataItems, MultiModalDataItems
from vllm.multimodal.processing import (
    BaseMultiModalProcessor,
    ProcessorInputs,
    PromptReplacement,
    PromptUpdate,
    PromptUpdateDetails,
    TimingContext,
)

from llm_service.mrope import position_ids_per_second
from llm_service.vllm_plugin.payload import MODALITIES, SECONDS, Modality
from llm_service.vllm_plugin.payload_checks import PayloadLimits, check_pruned, check_whole
from llm_service.vllm_plugin.position_ids import PlacedItem, is_pruned, prompt_position_ids

__all__ = ["PositionsExceeded", "PrunedDataParser", "PrunedProcessingInfo", "PrunedProcessor"]


def _field_config(modality: Modality, data: Mapping[str, torch.Tensor]) -> dict[str, MultiModalFieldConfig]:
    """Splitting of a pruned payload's fields into items. All fields, positions too, are hashed for the prefix cache."""
    counts = data[f"{modality}_num_tokens"]
    config = {
        f"{modality}_embeds": MultiModalFieldConfig.flat_from_sizes(modality, counts),
        f"{modality}_positions": MultiModalFieldConfig.flat_from_sizes(modality, counts, keep_on_cpu=True),
        f"{modality}_num_tokens": MultiModalFieldConfig.batched(modality, keep_on_cpu=True),
        f"{modality}_grid_thw": MultiModalFieldConfig.batched(modality, keep_on_cpu=True),
    }
    if modality == "video":
        config[SECONDS] = MultiModalFieldConfig.batched(modality, keep_on_cpu=True)
    return config


class PositionsExceeded(VLLMClientError, ValueError):
    """Prompt beyond the model's positions. vLLM passes on its own client errors only, and hides all others."""


class PrunedDataParser(Qwen2VLMultiModalDataParser):
    """Parser that accepts pruned payloads in addition to vLLM's inputs, and validates embeddings of both kinds."""

    def __init__(self, limits: PayloadLimits, **options: Any) -> None:
        super().__init__(limits.merge_size, expected_hidden_size=limits.embeds_width, **options)
        self._limits = limits

    def _parse_image_data(self, data: Any) -> ModalityDataItems[Any, Any] | None:
        return self._parse_embeddings("image", data) or super()._parse_image_data(data)

    def _parse_video_data(self, data: Any) -> ModalityDataItems[Any, Any] | None:
        return self._parse_embeddings("video", data) or super()._parse_video_data(data)

    def _parse_embeddings(self, modality: Modality, data: Any) -> DictEmbeddingItems | None:
        """Items of a pruned payload; None for inputs that vLLM parses."""
        if not isinstance(data, dict):
            return None
        own_fields = {f"{modality}_num_tokens", f"{modality}_positions"}
        if own_fields.isdisjoint(data):
            # Embeddings may be missing where an encoder cache connector provides them.
            if f"{modality}_embeds" in data or not self.allow_missing_mm_embeddings:
                check_whole(modality, data, self._limits)
            return None
        check_pruned(modality, data, self._limits)
        return DictEmbeddingItems(
            data,
            modality=modality,
            required_fields={f"{modality}_embeds", f"{modality}_grid_thw", *own_fields},
            fields_factory=partial(_field_config, modality),
        )


class PrunedProcessingInfo(Qwen2VLProcessingInfo):
    """Processing info with the limits of payloads.

    Attributes:
        parser_class: Parser of the family.
        has_frame_items: Flag: an item of modality `video` is a single frame.
    """

    parser_class: ClassVar[type[PrunedDataParser]]
    has_frame_items: ClassVar[bool] = False

    @property
    def limits(self) -> PayloadLimits:
        """Limits of the loaded checkpoint."""
        config, model = self.get_hf_config(), self.ctx.model_config
        vision, hidden_size = config.vision_config, self._get_expected_hidden_size()
        num_planes = len(getattr(vision, "deepstack_visual_indexes", ()))
        return PayloadLimits(
            embeds_width=None if hidden_size is None else hidden_size * (1 + num_planes),
            merge_size=vision.spatial_merge_size,
            tokens_per_second=position_ids_per_second(vision),
            # The rotary table covers twice as much at least, which leaves room for an answer as long as the context.
            max_positions=max(model.max_model_len, config.get_text_config().max_position_embeddings),
            has_frame_items=self.has_frame_items,
        )

    def get_data_parser(self) -> PrunedDataParser:
        """Parser of this plugin with vLLM's options for the family."""
        return self.parser_class(
            self.limits, video_needs_metadata=True, allow_missing_mm_embeddings=self.allow_missing_mm_embeddings
        )


class PrunedProcessor(BaseMultiModalProcessor[Any]):
    """Processor that repeats the placeholder of a pruned image or video once for each kept token."""

    def _ids_after(self, modality: Modality) -> list[int]:
        """Ids after a placeholder that belong to the item, although they have no embeddings."""
        return []

    def _check_items(self, items: list[PlacedItem]) -> None:
        """Refuses items that cannot stand beside pruned ones."""

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        config = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))
        for modality in MODALITIES:
            if f"{modality}_num_tokens" in hf_inputs:
                config |= _field_config(modality, hf_inputs)
        return config

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, Any],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        return [self._update(update, out_mm_kwargs.get(update.modality, ())) for update in updates]

    def _update(self, update: PromptReplacement, items: Sequence[Any]) -> PromptReplacement:
        """Replacement of placeholders for the items of a modality, all of which are pruned, or none."""
        modality = update.modality
        if not items or not is_pruned(modality, items[0]):
            return update
        placeholder: int = getattr(self.info.get_hf_config(), f"{modality}_token_id")
        after = self._ids_after(modality)

        def replacement(index: int) -> PromptUpdateDetails:
            ids = [placeholder] * int(items[index][f"{modality}_num_tokens"].data) + after
            return PromptUpdateDetails.select_token_id(ids, placeholder) if after else PromptUpdateDetails(ids)

        return replace(update, target=[placeholder, *after], replacement=replacement)

    def apply(self, inputs: ProcessorInputs, timing_ctx: TimingContext) -> MultiModalInput:
        """Processes a prompt as vLLM does.

        Raises:
            PositionsExceeded: The images and videos together reach beyond the model's positions.
        """
        processed = super().apply(inputs, timing_ctx)
        # vLLM sets cached items to None; a request with embeddings has none of them.
        items = [
            (span.offset, modality, item)
            for modality, spans in processed["mm_placeholders"].items()
            for span, item in zip(spans, processed["mm_kwargs"][modality], strict=True)
            if item is not None
        ]
        if any(is_pruned(modality, item) for _, modality, item in items):
            self._check_items(items)
            vision_config = self.info.get_hf_config().vision_config
            num_tokens = len(processed["prompt_token_ids"])
            position_ids, next_position_id = prompt_position_ids(num_tokens, items, vision_config)
            highest, end = max(position_ids.max(), next_position_id - 1), self.info.limits.max_positions
            if highest >= end:
                raise PositionsExceeded(
                    f"the prompt reaches position {highest}; {end - 1} is the last that is accepted"
                )
        return processed
