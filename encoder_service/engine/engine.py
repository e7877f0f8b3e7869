"""Engine that computes the visual tokens of a batch: forwards of the towers, then the pruner of each request."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Final

import torch

from encoder_service import metrics
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.feature_cache import FeatureCache, FeatureKey
from encoder_service.engine.isolation import all_or_error, retry_individually
from encoder_service.engine.media_pruning import RunPruner, prune, run_pruner
from encoder_service.engine.request_media import EncodeRequest, RequestMedia, TextRow
from encoder_service.engine.stage_times import StageTimes
from encoder_service.engine.unit_budgets import keep_in_tower
from encoder_service.media.decoding import MediaDecoder, MediaItem, media_digest
from encoder_service.media.videos import VideoLimits
from encoder_service.models.base import EncoderModel
from encoder_service.models.media_features import MediaFeatures, TowerInputs
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import TowerOutput
from fovea import tracing
from fovea.telemetry import CACHE_LOOKUPS

__all__ = ["EncoderEngine"]

_DEFAULT_VIDEO_LIMITS: Final = VideoLimits()
_SHORT_TEXT_BITS: Final = 7
"""Bits of the number of ids up to which questions share a forward, whatever their lengths: 128 ids."""


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
        metrics.FEATURE_CACHE_BYTES.set_function(lambda: cache.nbytes)
        self._max_batch_size = max_batch_size
        self.decoder = MediaDecoder(model.media, max_image_bytes, max_image_pixels, video_limits)

    def prepare(self, request: EncodeRequest) -> tuple[RequestMedia, ...]:
        """The images and videos of a request, ready for `run`.

        Media without cached features are decoded in the calling thread.

        Raises:
            ServiceError: See `MediaDecoder`.
            ValueError: See `allocate_budget`.
        """
        prepared = []
        for item in request.items:
            media = self.look_up(item, request)
            if media.features is None:
                media = self.with_tower_inputs(media, self.decoder(item, request.media_options))
            prepared.append(media)
        return tuple(prepared)

    def look_up(self, item: MediaItem, request: EncodeRequest) -> RequestMedia:
        """An image or video of a request, with its features if they are cached. Any thread may call this."""
        media = RequestMedia(request, media_digest(item, request.media_options))
        # With a pruner inside the tower, the key depends on the number of patches, which is known after decoding.
        return media if request.pruner.requirements.in_tower is not None else self._with_cached(media)

    def with_tower_inputs(self, media: RequestMedia, tower_inputs: TowerInputs) -> RequestMedia:
        """The decoded image or video, or its cached features if a pruner inside the tower has some.

        Raises:
            ValueError: See `allocate_budget`.
        """
        media = dataclasses.replace(media, tower_inputs=tower_inputs)
        new_in_tower = media.request.pruner.requirements.in_tower
        if new_in_tower is None:
            return media
        keep = keep_in_tower(tower_inputs.layout, media.request.budget)
        return self._with_cached(dataclasses.replace(media, in_tower=None if keep is None else new_in_tower(keep)))

    def _with_cached(self, media: RequestMedia) -> RequestMedia:
        """The image or video with its features, if they are cached, instead of its tower inputs."""
        requirements = media.request.pruner.requirements
        features = self._cache.get(media.key, requirements.outputs)
        if features is None or not features.have(features.layout.outputs(requirements)):
            return media
        return dataclasses.replace(media, features=features, features_cached=True, tower_inputs=None)

    @torch.inference_mode()
    def run(self, batch: Sequence[Sequence[RequestMedia]]) -> list[tuple[EncodedMedia, ...] | Exception]:
        """Visual tokens of each request's media, or the error of that request. Runs in the model thread."""
        start = time.perf_counter()
        # Earlier batches may have cached features since the requests were prepared.
        batch = [[item if item.features else self._with_cached(item) for item in media] for media in batch]
        _count_lookups(batch)
        stages = StageTimes(self.model.device)
        features = self._encode_media([item for media in batch for item in media])
        stages.end("tower")
        texts = self._encode_texts([media[0].request for media in batch])
        stages.end("text_tower")
        outcomes = _prune(batch, features, texts, self._run_pruner)
        stages.end("pruning")
        metrics.FORWARD_SECONDS.observe(time.perf_counter() - start)
        metrics.BATCH_SIZE.observe(len(batch))
        seconds = stages.seconds()
        _observe_stages(seconds, has_tower=bool(features), has_texts=any(text is not None for text in texts))
        for media in batch:
            tracing.record(media[0].request.span, seconds, ended_at=time.perf_counter())
        return outcomes

    def _encode_media(self, media: Sequence[RequestMedia]) -> dict[FeatureKey, MediaFeatures | Exception]:
        """Features of media that were not cached. Media with equal outputs and in-tower pruner share a forward.

        Equal media of one tenant are one tower input. Those of several tenants are one for each, so that the time of
        a request does not tell that another tenant asks about the same image.
        """
        required: dict[FeatureKey, frozenset[TowerOutput]] = {}
        tower_inputs: dict[FeatureKey, TowerInputs] = {}
        for item in media:
            if item.tower_inputs is not None:
                outputs = item.tower_inputs.layout.outputs(item.request.pruner.requirements)
                required[item.key] = required.get(item.key, frozenset()) | outputs
                tower_inputs[item.key] = item.tower_inputs
        groups: dict[tuple[frozenset[TowerOutput], InTowerPruner | None], list[FeatureKey]] = {}
        for key, outputs in required.items():
            groups.setdefault((outputs, key.in_tower), []).append(key)

        features: dict[FeatureKey, MediaFeatures | Exception] = {}
        for (outputs, in_tower), keys in groups.items():
            for chunk in self._chunks(keys, tower_inputs):

                def forward(
                    keys: Sequence[FeatureKey],
                    outputs: frozenset[TowerOutput] = outputs,
                    in_tower: InTowerPruner | None = in_tower,
                ) -> list[MediaFeatures]:
                    return self.model.encode([tower_inputs[key] for key in keys], outputs, in_tower)

                outcomes = retry_individually(forward, chunk)
                for key, outcome in zip(chunk, outcomes, strict=True):
                    features[key] = outcome
                    if isinstance(outcome, MediaFeatures):
                        self._cache.put(key, outcome)
        return features

    def _chunks(
        self, keys: Sequence[FeatureKey], tower_inputs: dict[FeatureKey, TowerInputs]
    ) -> list[list[FeatureKey]]:
        """`keys` in chunks of at most `max_batch_size` tower inputs. Media with more are a chunk by themselves."""
        chunks: list[list[FeatureKey]] = []
        room = 0
        for key in keys:
            size = tower_inputs[key].layout.num_inputs
            if size > room:
                chunks.append([])
                room = self._max_batch_size
            chunks[-1].append(key)
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


def _count_lookups(batch: Sequence[Sequence[RequestMedia]]) -> None:
    for item in (item for media in batch for item in media):
        CACHE_LOOKUPS.labels("features", "hit" if item.features_cached else "miss").inc()


def _observe_stages(seconds: Mapping[str, float], *, has_tower: bool, has_texts: bool) -> None:
    if has_tower:
        metrics.TOWER_SECONDS.observe(seconds["tower"])
    if has_texts:
        metrics.TEXT_TOWER_SECONDS.observe(seconds["text_tower"])
    metrics.PRUNING_SECONDS.observe(seconds["pruning"])


def _prune(
    batch: Sequence[Sequence[RequestMedia]],
    features_by_key: Mapping[FeatureKey, MediaFeatures | Exception],
    texts: Sequence[TextRow | Exception | None],
    run_pruner: RunPruner,
) -> list[tuple[EncodedMedia, ...] | Exception]:
    """Visual tokens of each request's images and videos, or the error of that request."""
    ready = [_with_features(media, features_by_key, text) for media, text in zip(batch, texts, strict=True)]
    pruned = iter(prune([item for media in ready if not isinstance(media, Exception) for item in media], run_pruner))
    outcomes: list[tuple[EncodedMedia, ...] | Exception] = []
    for media in ready:
        encoded = media if isinstance(media, Exception) else all_or_error([next(pruned) for _ in media])
        outcomes.append(encoded if isinstance(encoded, Exception) else tuple(encoded))
    for answered in (outcome for outcome in outcomes if isinstance(outcome, tuple)):
        metrics.VISUAL_TOKENS_TOTAL.inc(sum(one.num_tokens_total for one in answered))
        metrics.VISUAL_TOKENS_KEPT.inc(sum(len(one.positions) for one in answered))
    return outcomes


def _with_features(
    media: Sequence[RequestMedia],
    features_by_key: Mapping[FeatureKey, MediaFeatures | Exception],
    text: TextRow | Exception | None,
) -> list[RequestMedia] | Exception:
    """Images and videos of a request with their features and those of the question, or the first error of these."""
    if isinstance(text, Exception):
        return text
    found = all_or_error([item.features or features_by_key[item.key] for item in media])
    if isinstance(found, Exception):
        return found
    return [
        dataclasses.replace(item, features=features, text=text) for item, features in zip(media, found, strict=True)
    ]
