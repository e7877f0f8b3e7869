"""What a model family offers the engine."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from encoder_service.pruners.base import TextFeatures, View, VisionFeatures
from encoder_service.pruners.in_tower import InTowerPruner

__all__ = ["CheckpointError", "EncoderModel", "LoadOptions"]


class CheckpointError(Exception):
    """A checkpoint that this service cannot run. The message is one sentence for the operator, without paths."""


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
        grid: Rows and columns of one picture's patches.
        hidden_size: C.
        max_text_ids: Positions of the text tower, BOS and EOS included; longer texts are read in windows.
        text_vocab_size: Ids of the text tower are below it.
        max_images: Most pictures in one question.
        device: Where it computes.
        dtype: In what it computes.
    """

    family: str
    fingerprint: str
    text_tower_fingerprint: str
    settings_fingerprint: str
    grid: tuple[int, int]
    hidden_size: int
    max_text_ids: int
    text_vocab_size: int
    max_images: int
    device: torch.device
    dtype: torch.dtype

    def preprocess(self, image: Image.Image) -> Tensor:
        """Pixel values [3, H, W], float32 on the CPU, of an RGB picture. Safe from any thread."""
        ...

    def encode_images(
        self, pixel_values: Tensor, views: Set[View], in_tower: InTowerPruner | None = None
    ) -> list[VisionFeatures]:
        """Features of a batch [B, 3, H, W] with the views asked for, or of a tower that `in_tower` shortens."""
        ...

    def encode_texts(self, texts: Sequence[Sequence[int]], *, eos_attention: bool = False) -> list[TextFeatures]:
        """Features of questions as ids (BOS, words, EOS; at least one word), each as if it were alone."""
        ...
