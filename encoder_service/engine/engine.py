"""Engine that computes the visual tokens of a batch: forwards of the towers, then the pruner of each request."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch

from encoder_service import metrics
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.feature_cache import FeatureCache
from encoder_service.engine.isolation import retry_individually
from encoder_service.engine.media_pruning import RunPruner, prune, run_pruner
from encoder_service.engine.pruning_units import TextRow
from encoder_service.engine.unit_budgets import MediaToPrune, keep_in_tower
from encoder_service.engine.wire_values import DeviceFormat
from encoder_service.media.decoding import MediaDecoder, MediaJob
from encoder_service.media.videos import VideoItem, VideoLimits
from encoder_service.models.base import EncoderModel
from encoder_service.models.media import MediaOptions
from encoder_service.models.media_features import MediaFeatures, TowerInputs
from encoder_service.pruners.base import BoundPruner, FeatureRequirements
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import TowerOutput
from fovea.budget import Budget

__all__ = ["EncodeRequest", "EncoderEngine", "PreparedMedia", "PreparedRequest"]

_DEFAULT_VIDEO_LIMITS: Final = VideoLimits()
_DEFAULT_MEDIA_OPTIONS: Final = MediaOptions()
_SHORT_TEXT_BITS: Final = 7
"""Bits of the number of ids up to which questions share a forward, whatever their lengths: 128 ids."""

_FeatureKey: TypeAlias = tuple[bytes, InTowerPruner | None]  # digest of an image or video, pruner inside the tower


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """A question about images and videos.

    Attributes:
        images: Image files.
        text_ids: Ids of the question. Fewer than the model's `min_text_ids` count as no question.
        pruner: The pruner with its parameters.
        budget: Budget of each image or video; auto only if the pruner has `choose_keep`.
        videos: Videos, which come after the images.
        joins_frames: Whether the frames of a video are pruned together; otherwise each frame is pruned with its share
            of the budget. False for pruners inside the tower, which process one frame at a time.
        wire_format: Wire format to which the visual tokens are converted on the device.
        media_options: Options of the preprocessing of images and videos.
    """

    images: tuple[bytes, ...]
    text_ids: tuple[int, ...]
    pruner: BoundPruner
    budget: Budget
    videos: tuple[VideoItem, ...] = ()
    joins_frames: bool = False
    wire_format: DeviceFormat = "float32"
    media_options: MediaOptions = _DEFAULT_MEDIA_OPTIONS

    @property
    def media(self) -> tuple[MediaJob, ...]:
        """Images, then videos."""
        return tuple(MediaJob(item, self.media_options) for item in (*self.images, *self.videos))


@dataclass(frozen=True, slots=True)
class PreparedMedia:
    """An image or video with its tower inputs, or with its features. With neither, it must still be decoded.

    Attributes:
        digest: See `MediaJob.digest`.
        features: Features from the cache.
        tower_inputs: Decoded image or video.
        in_tower: Pruner inside the tower; None for none.
    """

    digest: bytes
    features: MediaFeatures | None = None
    tower_inputs: TowerInputs | None = None
    in_tower: InTowerPruner | None = None

    @property
    def key(self) -> _FeatureKey:
        """Key of the features in the feature cache."""
        return self.digest, self.in_tower


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request with its prepared media, in the order of the request."""

    request: EncodeRequest
    media: tuple[PreparedMedia, ...]

    @property
    def size(self) -> int:
        """Number of tower inputs to compute, counted as at least 1."""
        tower_inputs = [media.tower_inputs for media in self.media if media.tower_inputs is not None]
        return max(1, sum(inputs.layout.num_inputs for inputs in tower_inputs))


class EncoderEngine:
    """Preparation of requests and computation of batches. The queue is in `Batcher`.

    Args:
        model: Towers of the model.
        cache: Cache of features.
        max_batch_size: Largest number of tower inputs in one forward. An image or video with more has its own forward.
        max_image_bytes: Largest size of an image file, in bytes.
        max_image_pixels: Largest number of pixels of an image.
        video_limits: Limits of videos.
        run_pruner: Function that runs a pruner on a batch.
    """

    def __init__(
        self,
        model: EncoderModel,
        cache: FeatureCache,
        *,
        max_batch_size: int,
        max_image_bytes: int,
        max_image_pixels: int,
        video_limits: VideoLimits = _DEFAULT_VIDEO_LIMITS,
        run_pruner: RunPruner = run_pruner,
    ) -> None:
        self.model = model
        self._run_pruner = run_pruner
        self._cache = cache
        self._max_batch_size = max_batch_size
        self.decoder = MediaDecoder(model.media, max_image_bytes, max_image_pixels, video_limits)

    def prepare(self, request: EncodeRequest) -> PreparedRequest:
        """The request with its prepared media. Media without cached features are decoded in the calling thread.

        Raises:
            ServiceError: See `MediaDecoder`.
            ValueError: See `allocate_budget`.
        """
        media = []
        for job in request.media:
            prepared = self.look_up(job, request)
            if prepared.features is None:
                prepared = self.with_tower_inputs(prepared, self.decoder(job), request)
            media.append(prepared)
        return PreparedRequest(request, tuple(media))

    def look_up(self, job: MediaJob, request: EncodeRequest) -> PreparedMedia:
        """The image or video, with its features if they are cached. Any thread may call this."""
        digest, requirements = job.digest, request.pruner.requirements
        # With a pruner inside the tower, the key depends on the number of patches, which is known after decoding.
        return PreparedMedia(digest, self._cached(digest, requirements) if requirements.in_tower is None else None)

    def with_tower_inputs(
        self, prepared: PreparedMedia, tower_inputs: TowerInputs, request: EncodeRequest
    ) -> PreparedMedia:
        """The decoded image or video, or its cached features if a pruner inside the tower has some.

        Raises:
            ValueError: See `allocate_budget`.
        """
        requirements = request.pruner.requirements
        if requirements.in_tower is None:
            return dataclasses.replace(prepared, tower_inputs=tower_inputs)
        keep = keep_in_tower(tower_inputs.layout, request.budget)
        in_tower = None if keep is None else requirements.in_tower(keep)
        features = self._cached(prepared.digest, requirements, in_tower)
        return PreparedMedia(prepared.digest, features, None if features is not None else tower_inputs, in_tower)

    def _cached(
        self, digest: bytes, requirements: FeatureRequirements, in_tower: InTowerPruner | None = None
    ) -> MediaFeatures | None:
        features = self._cache.get(digest, requirements.outputs, in_tower)
        return features if features is not None and features.have(features.layout.outputs(requirements)) else None

    @torch.inference_mode()
    def run(self, batch: Sequence[PreparedRequest]) -> list[tuple[EncodedMedia, ...] | Exception]:
        """Visual tokens of each request's media, or the error of that request. Runs in the model thread."""
        start = time.perf_counter()
        batch = [self._with_newly_cached(prepared) for prepared in batch]
        features = self._encode_media(batch)
        texts = self._encode_texts([prepared.request for prepared in batch])
        outcomes = _prune(batch, features, texts, self._run_pruner)
        metrics.FORWARD_SECONDS.observe(time.perf_counter() - start)
        return outcomes

    def _with_newly_cached(self, prepared: PreparedRequest) -> PreparedRequest:
        """The request with the features that earlier batches have cached since it was prepared."""
        requirements = prepared.request.pruner.requirements
        media = []
        for item in prepared.media:
            features = item.features or self._cached(item.digest, requirements, item.in_tower)
            media.append(item if features is None else dataclasses.replace(item, features=features, tower_inputs=None))
        return dataclasses.replace(prepared, media=tuple(media))

    def _encode_media(self, batch: Sequence[PreparedRequest]) -> dict[_FeatureKey, MediaFeatures | Exception]:
        """Features of media that were not cached. Media with equal outputs and in-tower pruner share a forward."""
        required: dict[_FeatureKey, frozenset[TowerOutput]] = {}
        tower_inputs: dict[bytes, TowerInputs] = {}
        for prepared in batch:
            for media in prepared.media:
                if media.tower_inputs is not None:
                    outputs = media.tower_inputs.layout.outputs(prepared.request.pruner.requirements)
                    required[media.key] = required.get(media.key, frozenset()) | outputs
                    tower_inputs[media.digest] = media.tower_inputs
        groups: dict[tuple[frozenset[TowerOutput], InTowerPruner | None], list[bytes]] = {}
        for (digest, in_tower), outputs in required.items():
            groups.setdefault((outputs, in_tower), []).append(digest)

        features: dict[_FeatureKey, MediaFeatures | Exception] = {}
        for (outputs, in_tower), digests in groups.items():
            for chunk in self._chunks(digests, tower_inputs):

                def forward(
                    digests: Sequence[bytes],
                    outputs: frozenset[TowerOutput] = outputs,
                    in_tower: InTowerPruner | None = in_tower,
                ) -> list[MediaFeatures]:
                    return self.model.encode([tower_inputs[digest] for digest in digests], outputs, in_tower)

                outcomes = retry_individually(forward, chunk)
                for digest, outcome in zip(chunk, outcomes, strict=True):
                    features[digest, in_tower] = outcome
                    if isinstance(outcome, MediaFeatures):
                        self._cache.put(digest, outcome, in_tower)
        return features

    def _chunks(self, digests: Sequence[bytes], tower_inputs: dict[bytes, TowerInputs]) -> list[list[bytes]]:
        """`digests` in chunks of at most `max_batch_size` tower inputs. Media with more are a chunk by themselves."""
        chunks: list[list[bytes]] = []
        room = 0
        for digest in digests:
            size = tower_inputs[digest].layout.num_inputs
            if size > room:
                chunks.append([])
                room = self._max_batch_size
            chunks[-1].append(digest)
            room -= size
        return chunks

    def _encode_texts(self, requests: Sequence[EncodeRequest]) -> list[TextRow | Exception | None]:
        """Features of the questions that pruners read. Questions with equal `eos_attention` share a forward.

        Long questions are apart from short ones, which would be padded to their length.
        """
        features: list[TextRow | Exception | None] = [None] * len(requests)
        groups: dict[tuple[bool, int], list[int]] = {}
        for i, request in enumerate(requests):
            requirements, length = request.pruner.requirements, len(request.text_ids)
            if requirements.text and length >= self.model.min_text_ids:
                key = requirements.eos_attention, max(_SHORT_TEXT_BITS, (length - 1).bit_length())
                groups.setdefault(key, []).append(i)
        for (eos_attention, _), indices in groups.items():

            def forward(indices: Sequence[int], eos_attention: bool = eos_attention) -> list[TextRow]:
                texts = self.model.encode_texts([requests[i].text_ids for i in indices], eos_attention=eos_attention)
                return [TextRow(texts, row) for row in range(len(indices))]

            for i, outcome in zip(indices, retry_individually(forward, indices), strict=True):
                features[i] = outcome
        return features


def _prune(
    batch: Sequence[PreparedRequest],
    features_by_key: dict[_FeatureKey, MediaFeatures | Exception],
    texts: Sequence[TextRow | Exception | None],
    run_pruner: RunPruner,
) -> list[tuple[EncodedMedia, ...] | Exception]:
    """Visual tokens of each request's images and videos, or the error of that request."""
    errors: dict[int, Exception] = {}
    owners: list[int] = []
    media: list[MediaToPrune] = []
    for i, (prepared, text) in enumerate(zip(batch, texts, strict=True)):
        found = [item.features or features_by_key[item.key] for item in prepared.media]
        error = next((outcome for outcome in (text, *found) if isinstance(outcome, Exception)), None)
        if error is not None:
            errors[i] = error
            continue
        for item, features in zip(prepared.media, found, strict=True):
            assert not isinstance(features, Exception)
            assert not isinstance(text, Exception)
            owners.append(i)
            media.append(_to_prune(prepared.request, item, features, text))
    encoded: dict[int, list[EncodedMedia]] = {i: [] for i in range(len(batch))}
    for i, outcome in zip(owners, prune(media, run_pruner), strict=True):
        if isinstance(outcome, Exception):
            errors.setdefault(i, outcome)
        else:
            encoded[i].append(outcome)
    outcomes = [errors[i] if i in errors else tuple(encoded[i]) for i in range(len(batch))]
    for answered in (outcome for outcome in outcomes if isinstance(outcome, tuple)):
        metrics.VISUAL_TOKENS_TOTAL.inc(sum(one.num_tokens_total for one in answered))
        metrics.VISUAL_TOKENS_KEPT.inc(sum(len(one.positions) for one in answered))
    return outcomes


def _to_prune(
    request: EncodeRequest, item: PreparedMedia, features: MediaFeatures, text: TextRow | None
) -> MediaToPrune:
    return MediaToPrune(
        features,
        request.pruner,
        request.budget,
        text,
        # 62 bits: torch's generator takes a signed 64-bit seed and a pruner may add to it.
        seed=int.from_bytes(item.digest[:8], "big") >> 2,
        joins_frames=request.joins_frames,
        features_cached=item.features is not None,
        wire_format=request.wire_format,
    )
