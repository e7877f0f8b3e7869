"""A batch of questions in, their visual tokens out: towers once for all, then the pruner row by row."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder_service import images
from encoder_service.feature_cache import FeatureCache
from encoder_service.models.base import EncoderModel
from encoder_service.pruners.base import BoundPruner, PrunerInput, TextFeatures, View, VisionFeatures
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.places import with_places
from fovea import telemetry
from fovea.budget import resolve_budget

__all__ = ["EncodeRequest", "EncodedPicture", "Engine", "PreparedRequest"]

Item = TypeVar("Item")
Made = TypeVar("Made")
_Key = tuple[bytes, InTowerPruner | None]  # a picture, and what prunes it inside the tower

_FEWEST_IDS: Final = 3  # BOS, a word, EOS: below that there is no question


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """One question.

    Attributes:
        images: Picture files.
        text_ids: BOS, words, EOS; fewer than three ids are no question.
        pruner: What chooses.
        keep_tokens: Budget of each picture as a count, or
        keep_ratio: as a share; neither where the pruner decides, which must have `choose_keep`.
    """

    images: tuple[bytes, ...]
    text_ids: tuple[int, ...]
    pruner: BoundPruner
    keep_tokens: int | None = None
    keep_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class PreparedPicture:
    """A picture ready for the tower, or past it: exactly one of `features` and `pixel_values` is there."""

    digest: bytes
    features: VisionFeatures | None = None
    pixel_values: Tensor | None = None


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A question whose pictures are decoded.

    Attributes:
        request: The question.
        pictures: In its order.
        keep: K of each picture; None where the pruner decides.
        in_tower: What prunes inside the tower; None for nothing.
    """

    request: EncodeRequest
    pictures: tuple[PreparedPicture, ...]
    keep: int | None
    in_tower: InTowerPruner | None = None

    @property
    def size(self) -> int:
        """Places that it takes in a batch."""
        return len(self.pictures)


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """A picture's visual tokens in numpy, float32 and int64; see `PrunedTokens` and `places`."""

    features: npt.NDArray[np.float32]
    positions: npt.NDArray[np.int64]
    merged_into: npt.NDArray[np.int64]
    task_map: npt.NDArray[np.float32] | None
    saliency_map: npt.NDArray[np.float32] | None
    grid: tuple[int, int]
    features_cached: bool


class Engine:
    """Prepares and computes; holds no queue.

    Args:
        model: The towers.
        cache: Features of pictures seen lately.
        max_batch_size: Most pictures in one forward of the vision tower.
        max_image_bytes: Most bytes of a picture file.
        max_image_pixels: Most pixels of a picture.
    """

    def __init__(
        self,
        model: EncoderModel,
        cache: FeatureCache,
        *,
        max_batch_size: int,
        max_image_bytes: int,
        max_image_pixels: int,
    ) -> None:
        self.model = model
        self._cache = cache
        self._max_batch_size = max_batch_size
        self._max_image_bytes = max_image_bytes
        self._max_image_pixels = max_image_pixels

    def prepare(self, request: EncodeRequest) -> PreparedRequest:
        """Decodes the pictures whose features are not cached. Any thread.

        Raises:
            ServiceError: See `images.decode`.
            ValueError: See `resolve_budget`.
        """
        num_patches = self.model.grid[0] * self.model.grid[1]
        needs, keep, in_tower = request.pruner.needs, None, None
        if request.keep_tokens is not None or request.keep_ratio is not None or request.pruner.choose_keep is None:
            keep = resolve_budget(num_patches, keep_tokens=request.keep_tokens, keep_ratio=request.keep_ratio)
            # A full budget prunes nothing: the tower runs whole, and its features serve everybody.
            in_tower = None if needs.in_tower is None or keep == num_patches else needs.in_tower(keep)
        pictures = tuple(self._prepare_picture(data, needs.views, in_tower) for data in request.images)
        return PreparedRequest(request, pictures, keep, in_tower)

    def _prepare_picture(self, data: bytes, views: frozenset[View], in_tower: InTowerPruner | None) -> PreparedPicture:
        digest = hashlib.sha256(data).digest()
        features = self._cache.get(digest, views, in_tower)
        if features is not None:
            return PreparedPicture(digest, features=features)
        image = images.decode(data, max_bytes=self._max_image_bytes, max_pixels=self._max_image_pixels)
        return PreparedPicture(digest, pixel_values=self.model.preprocess(image))

    @torch.inference_mode()
    def run(self, batch: Sequence[PreparedRequest]) -> list[tuple[EncodedPicture, ...] | Exception]:
        """The visual tokens of each question's pictures, or what went wrong with that question alone. Model thread."""
        start = time.perf_counter()
        batch = [self._look_again(prepared) for prepared in batch]
        vision = self._encode_pictures(batch)
        texts = self._encode_questions([prepared.request for prepared in batch])
        outcomes: list[tuple[EncodedPicture, ...] | Exception] = []
        for prepared, text in zip(batch, texts, strict=True):
            try:
                outcomes.append(_prune(prepared, vision, text))
            except Exception as error:  # a bad row must not take its batch-mates along
                outcomes.append(error)
        telemetry.ENCODER_FORWARD_SECONDS.observe(time.perf_counter() - start)
        return outcomes

    def _look_again(self, prepared: PreparedRequest) -> PreparedRequest:
        """Takes features from the cache that an earlier batch has left there while this request waited."""
        views = prepared.request.pruner.needs.views
        pictures = []
        for picture in prepared.pictures:
            features = picture.features or self._cache.get(picture.digest, views, prepared.in_tower)
            pictures.append(picture if features is None else PreparedPicture(picture.digest, features=features))
        return dataclasses.replace(prepared, pictures=tuple(pictures))

    def _encode_pictures(self, batch: Sequence[PreparedRequest]) -> dict[_Key, VisionFeatures | Exception]:
        """Features of the pictures that were not cached: one forward for all that need the same views of one tower."""
        needed: dict[_Key, frozenset[View]] = {}
        pixels: dict[bytes, Tensor] = {}
        for prepared in batch:
            for picture in prepared.pictures:
                if picture.pixel_values is not None:
                    key = picture.digest, prepared.in_tower
                    needed[key] = needed.get(key, frozenset()) | prepared.request.pruner.needs.views
                    pixels[picture.digest] = picture.pixel_values
        groups: dict[tuple[frozenset[View], InTowerPruner | None], list[bytes]] = {}
        for (digest, in_tower), views in needed.items():
            groups.setdefault((views, in_tower), []).append(digest)

        made: dict[_Key, VisionFeatures | Exception] = {}
        for (views, in_tower), digests in groups.items():
            for first in range(0, len(digests), self._max_batch_size):
                chunk = digests[first : first + self._max_batch_size]

                def forward(
                    some: list[bytes], views: frozenset[View] = views, in_tower: InTowerPruner | None = in_tower
                ) -> list[VisionFeatures]:
                    return self.model.encode_images(torch.stack([pixels[digest] for digest in some]), views, in_tower)

                outcomes = _isolated(forward, chunk)
                for digest, outcome in zip(chunk, outcomes, strict=True):
                    made[digest, in_tower] = outcome
                    if isinstance(outcome, VisionFeatures):
                        self._cache.put(digest, outcome, in_tower)
        return made

    def _encode_questions(self, requests: Sequence[EncodeRequest]) -> list[TextFeatures | Exception | None]:
        """Features of the questions that are read: one forward for all that need the same of the text tower."""
        made: list[TextFeatures | Exception | None] = [None] * len(requests)
        for eos_attention in (False, True):
            rows = [
                i
                for i, request in enumerate(requests)
                if request.pruner.needs.text
                and request.pruner.needs.eos_attention == eos_attention
                and len(request.text_ids) >= _FEWEST_IDS
            ]

            def forward(some: list[int], eos_attention: bool = eos_attention) -> list[TextFeatures]:
                return self.model.encode_texts([requests[i].text_ids for i in some], eos_attention=eos_attention)

            outcomes = _isolated(forward, rows)
            for i, outcome in zip(rows, outcomes, strict=True):
                made[i] = outcome
        return made


def _isolated(compute: Callable[[list[Item]], list[Made]], items: list[Item]) -> list[Made | Exception]:
    """`compute(items)`; if that fails, each item by itself, so that only the culprit carries the error."""
    if not items:
        return []
    try:
        return list(compute(items))
    except Exception as error:
        if len(items) == 1:
            return [error]
        telemetry.FAILURES.labels("encoder_batch").inc()
        return [outcome for item in items for outcome in _isolated(compute, [item])]


def _prune(
    prepared: PreparedRequest,
    vision: dict[_Key, VisionFeatures | Exception],
    text: TextFeatures | Exception | None,
) -> tuple[EncodedPicture, ...]:
    """Runs the question's pruner on each of its pictures."""
    if isinstance(text, Exception):
        raise text
    request, encoded = prepared.request, []
    for picture in prepared.pictures:
        features = picture.features or vision[picture.digest, prepared.in_tower]
        if isinstance(features, Exception):
            raise features
        # 62 bits: torch's generator takes a signed 64-bit seed and a pruner may add to it.
        seed = int.from_bytes(picture.digest[:8], "big") >> 2
        job = PrunerInput(features, features.num_patches if prepared.keep is None else prepared.keep, text, seed)
        if prepared.keep is None:
            assert request.pruner.choose_keep is not None, "`prepare` resolves every other budget"
            job = dataclasses.replace(job, keep=request.pruner.choose_keep(job))
        pruned = with_places(request.pruner.prune(job))
        encoded.append(
            EncodedPicture(
                features=_float32(pruned.features),
                positions=pruned.kept_index.cpu().numpy(),
                merged_into=pruned.merged_into.cpu().numpy(),
                task_map=None if pruned.task_map is None else _float32(pruned.task_map),
                saliency_map=None if pruned.saliency_map is None else _float32(pruned.saliency_map),
                grid=features.grid,
                features_cached=picture.features is not None,
            )
        )
        telemetry.VISUAL_TOKENS_TOTAL.inc(features.num_patches)
        telemetry.VISUAL_TOKENS_KEPT.inc(len(pruned.kept_index))
    return tuple(encoded)


def _float32(tensor: Tensor) -> npt.NDArray[np.float32]:
    return np.asarray(tensor.to("cpu", torch.float32).numpy())
