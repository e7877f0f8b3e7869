"""What a model family offers the engine."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import torch

from encoder_service.models.media import MediaProcessor
from encoder_service.pruners.base import TextFeatures
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import TowerOutput
from encoder_service.visual import MediaFeatures, TowerInputs

__all__ = ["EncoderModel", "LoadOptions"]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a model.

    Attributes:
        text_tower: Directory or hub id of the CLIP checkpoint; "" for the family's own.
        revision: Branch, tag or commit of the main checkpoint on the hub.
        device: cpu, cuda or auto.
        dtype: float32, bfloat16, float16 or auto: float32 on the CPU, else the checkpoint's own.
        attn_implementation: sdpa or eager.
    """

    text_tower: str = ""
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    attn_implementation: str = "sdpa"


class EncoderModel(Protocol):
    """Vision tower, text tower and image processor of one family. The `encode_*` methods belong to the model thread.

    Attributes:
        family: llava, ...
        fingerprint: Of the checkpoint; what the LLM service compares with its own.
        text_tower_fingerprint: Of the text tower's checkpoint.
        settings_fingerprint: Of everything else that changes results.
        grid: Rows and columns of one picture's patches; None where pictures differ.
        hidden_size: C.
        max_text_ids: Positions of the text tower, BOS and EOS included; longer texts are read in windows.
        min_text_ids: Fewer ids are no question.
        text_vocab_size: Ids of the text tower are below it.
        reads_language_model_ids: Questions come as ids of the language model's tokenizer, not the text tower's.
        views: What pruners can see of its tower.
        prunes_in_tower: `encode` takes an in-tower pruner.
        max_images: Most pictures in one question.
        max_videos: Most videos in one question; 0 where the family takes none.
        device: Where it computes.
        dtype: In what it computes.
        media: makes of images and videos what the towers take.
        num_parameters: number of weights in vision and text tower.
    """

    family: str
    fingerprint: str
    text_tower_fingerprint: str
    settings_fingerprint: str
    grid: tuple[int, int] | None
    hidden_size: int
    max_text_ids: int
    min_text_ids: int
    text_vocab_size: int
    reads_language_model_ids: bool
    outputs: frozenset[TowerOutput]
    prunes_in_tower: bool
    max_images: int
    max_videos: int
    device: torch.device
    dtype: torch.dtype
    media: MediaProcessor
    num_parameters: int

    def encode(
        self, inputs: Sequence[TowerInputs], outputs: Set[TowerOutput], in_tower: InTowerPruner | None = None
    ) -> list[MediaFeatures]:
        """Features of a batch with the views asked for, or of a tower that `in_tower` shortens."""
        ...

    def encode_texts(self, texts: Sequence[Sequence[int]], *, eos_attention: bool = False) -> list[TextFeatures]:
        """Features of questions as ids, at least `min_text_ids` each, each as if it were alone."""
        ...
