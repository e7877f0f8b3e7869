"""Interface of a model family to the engine."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import torch

from encoder_service.models.media import MediaProcessor
from encoder_service.models.media_features import MediaFeatures, TowerInputs
from encoder_service.models.pixel_normalizer import PixelNormalizer
from encoder_service.pruners.base import TextFeatures
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import TowerOutput

__all__ = ["EncoderModel", "LoadOptions"]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a model.

    Attributes:
        text_tower: Directory or hub id of the CLIP checkpoint; "" for the family's own.
        revision: Branch, tag or commit of the main checkpoint on the hub.
        device: Device, cpu, cuda or auto.
        dtype: Compute dtype, float32, bfloat16, float16 or auto; see `resolve_dtype`.
        attn_implementation: Attention implementation, sdpa or eager.
        compile: Whether the vision tower's layers are compiled by torch. Families of LLaVA alone.
        reduces_jpeg: Whether JPEG images are decoded at a reduced scale where that is enough.
    """

    text_tower: str = ""
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    attn_implementation: str = "sdpa"
    compile: bool = False
    reduces_jpeg: bool = False


class EncoderModel(Protocol):
    """Vision tower, text tower and image processor of one family. The `encode_*` methods belong to the model thread.

    Attributes:
        family: Name of the family, such as llava.
        fingerprint: Fingerprint of the checkpoint, compared with that of the LLM service.
        text_tower_fingerprint: Fingerprint of the text tower's checkpoint.
        settings_fingerprint: Fingerprint of everything else that changes results.
        grid: Rows and columns of the patches of an image; None where images differ.
        hidden_size: Channels C of a visual token.
        num_planes: Number P of DeepStack planes of a visual token; 0 for a family without them.
        max_text_ids: Positions of the text tower, BOS and EOS included; longer texts are read in windows.
        min_text_ids: Smallest number of ids of a question.
        text_vocab_size: Size of the text tower's vocabulary; ids are below it.
        reads_language_model_ids: Whether questions come as ids of the language model's tokenizer, not the text tower's.
        outputs: Tower outputs that it can compute.
        prunes_in_tower: Whether `encode` takes an in-tower pruner.
        max_images: Largest number of images in a question.
        max_videos: Largest number of videos in a question; 0 where the family takes none.
        device: Device of the towers.
        dtype: Compute dtype.
        media: Processor of decoded images and videos.
        pixel_values: Tower input of what `media` makes, in the order of the media.
        num_parameters: Number of weights in vision and text tower.
    """

    family: str
    fingerprint: str
    text_tower_fingerprint: str
    settings_fingerprint: str
    grid: tuple[int, int] | None
    hidden_size: int
    num_planes: int
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
    pixel_values: PixelNormalizer
    num_parameters: int

    def encode(
        self, inputs: Sequence[TowerInputs], outputs: Set[TowerOutput], in_tower: InTowerPruner | None = None
    ) -> list[MediaFeatures]:
        """Features of each image and video with the given outputs, or from a tower that `in_tower` prunes."""
        ...

    def encode_texts(self, texts: Sequence[Sequence[int]], *, eos_attention: bool = False) -> TextFeatures:
        """Features of questions of at least `min_text_ids` ids, as a batch in which each is padded."""
        ...
