"""Models and requests of the encoder's speed benchmarks: every image different, every question of another length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.checkpoints.tiny import clip, llava_next, qwen2_5_vl, qwen3_vl
from benchmarks.harness.images import noise_image, png
from encoder_service import models
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.feature_cache import FeatureCache
from encoder_service.engine.request_media import EncodeRequest
from encoder_service.models.base import EncoderModel, LoadOptions
from encoder_service.pruners import PRUNERS
from encoder_service.server.requests import pruners_of
from fovea.budget import Budget
from fovea.checkpoints.shipped import shipped_checkpoint

__all__ = [
    "LENGTHS",
    "Subject",
    "encoded_media",
    "images",
    "llava_next_tiny",
    "new_engine",
    "question",
    "qwen3_tiny",
    "qwen_tiny",
    "shipped",
]

LENGTHS: Final = range(12, 21)
"""Numbers of text ids of the questions, BOS and EOS included."""

_MAX_IMAGE_BYTES: Final = 2**24
_MAX_IMAGE_PIXELS: Final = 50_000_000


@dataclass(frozen=True)
class Subject:
    """A model, and the images that it is asked about.

    Attributes:
        name: Name in the report.
        model: Towers of the model.
        image_size: Width and height of the images in pixels.
        max_batch_size: Largest number of tower inputs of a forward.
    """

    name: str
    model: EncoderModel
    image_size: tuple[int, int]
    max_batch_size: int = 32

    @property
    def pruners(self) -> list[str]:
        """Names of the pruners that work with the model."""
        return [name for name in PRUNERS if name in pruners_of(self.model)]

    def engine(self, cache_bytes: int = 0) -> EncoderEngine:
        """An engine with an empty feature cache; 0 bytes switch the cache off."""
        return new_engine(self.model, cache_bytes, self.max_batch_size)

    def requests(self, count: int, pruner: str, *, keep: int = 16, seed: int = 0) -> list[EncodeRequest]:
        """Requests with one image each."""
        bound, files = PRUNERS[pruner].bind({}), images(count, self.image_size, seed=seed)
        return [
            EncodeRequest((file,), question(self.model, i), bound, Budget.count(keep)) for i, file in enumerate(files)
        ]


def encoded_media(outcomes: Iterable[tuple[EncodedMedia, ...] | Exception]) -> list[EncodedMedia]:
    """Media of all requests that an engine has run.

    Raises:
        Exception: The error of the first request that failed.
    """
    media: list[EncodedMedia] = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
        media += outcome
    return media


def new_engine(model: EncoderModel, cache_bytes: int, max_batch_size: int) -> EncoderEngine:
    """An engine with an empty feature cache and wide limits of images."""
    return EncoderEngine(
        model,
        FeatureCache(cache_bytes),
        max_batch_size=max_batch_size,
        max_image_bytes=_MAX_IMAGE_BYTES,
        max_image_pixels=_MAX_IMAGE_PIXELS,
    )


def images(count: int, size: tuple[int, int], *, seed: int = 0) -> list[bytes]:
    """PNG files of coloured noise, all different; `size` is width and height in pixels."""
    rng = np.random.default_rng(seed)
    return [png(noise_image(size, rng)) for _ in range(count)]


def question(model: EncoderModel, number: int) -> tuple[int, ...]:
    """Text ids of a question: BOS, words, EOS, where the last two ids of the vocabulary are BOS and EOS."""
    size = model.text_vocab_size
    words: Sequence[int] = range(LENGTHS[number % len(LENGTHS)] - 2)
    return (size - 2, *((1 + 7 * word + number) % (size - 2) for word in words), size - 1)


def shipped(device: str, *, dtype: str = "auto") -> Subject:
    """The shipped LLaVA with the shipped CLIP."""
    options = LoadOptions(text_tower=str(shipped_checkpoint("clip")), device=device, dtype=dtype)
    return Subject("shipped LLaVA", models.load(str(shipped_checkpoint("llava")), options), (160, 120))


def llava_next_tiny(folder: Path, device: str) -> Subject:
    """A tiny random LLaVA-NeXT, with images of five tiles: the base tile and two rows of two."""
    text_tower = clip.write(folder / "clip")
    options = LoadOptions(text_tower=str(text_tower), device=device)
    model = models.load(str(llava_next.write(folder / "llava_next")), options)
    side = 2 * clip.IMAGE_SIZE
    return Subject("tiny LLaVA-NeXT, five tiles an image", model, (side, side), max_batch_size=64)


def qwen_tiny(folder: Path, device: str) -> Subject:
    """A tiny random Qwen2.5-VL, with images of one size: 5 x 8 visual tokens."""
    model = models.load(str(qwen2_5_vl.write(folder / "qwen2_5_vl")), LoadOptions(device=device))
    return Subject("tiny Qwen2.5-VL, images of one size", model, (8 * 28, 5 * 28))


def qwen3_tiny(folder: Path, device: str) -> Subject:
    """A tiny random Qwen3-VL, with images of one size: 5 x 8 visual tokens."""
    model = models.load(str(qwen3_vl.write(folder / "qwen3_vl")), LoadOptions(device=device))
    return Subject("tiny Qwen3-VL, images of one size", model, (8 * 32, 5 * 32))
