"""A batch of questions in, their visual tokens out: towers once for all, then the pruner row by row."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import torch

from encoder_service import metrics
from encoder_service.assembly import EncodedMedia
from encoder_service.feature_cache import FeatureCache
from encoder_service.joint_frames import join_frames
from encoder_service.media_decoding import MediaDecoder, MediaSource
from encoder_service.models.base import EncoderModel
from encoder_service.pruners.base import BoundPruner, FeatureRequirements, TextFeatures
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import TowerOutput
from encoder_service.pruning import keep_in_tower, prune
from encoder_service.videos import VideoLimits, VideoSource
from encoder_service.visual import MediaFeatures, TowerInputs
from fovea.telemetry import FailureKind, count_failure

__all__ = ["EncodeRequest", "EncoderEngine", "PreparedMedia", "PreparedRequest"]

_DEFAULT_VIDEO_LIMITS: Final = VideoLimits()

Item = TypeVar("Item")
Made = TypeVar("Made")
_Key = tuple[bytes, InTowerPruner | None]  # a picture or video, and what prunes it inside the tower


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """One question.

    Attributes:
        images: Picture files.
        text_ids: As the model's tokenizer writes them; fewer than its `min_text_ids` are no question.
        pruner: What chooses.
        keep_tokens: Budget of each picture or video as a count, or
        keep_ratio: as a share; neither where the pruner decides, which must have `choose_keep`.
        videos: Come after the pictures.
        joint_frames: All frames of a video compete for one budget; otherwise each has its share. Not for pruners that
            work inside the tower, where frames never meet.
        most_tokens: Of each picture or video, whatever the budget; None: no limit.
    """

    images: tuple[bytes, ...]
    text_ids: tuple[int, ...]
    pruner: BoundPruner
    keep_tokens: int | None = None
    keep_ratio: float | None = None
    videos: tuple[VideoSource, ...] = ()
    joint_frames: bool = False
    most_tokens: int | None = None

    @property
    def media(self) -> tuple[MediaSource, ...]:
        """Images, then videos."""
        return (*self.images, *self.videos)


@dataclass(frozen=True, slots=True)
class PreparedMedia:
    """An image or video ready for the tower (`pixels`) or past it (`features`); with neither it has to be decoded.

    Attributes:
        digest: Of the file, and of how it was read.
        in_tower: What prunes it inside the tower; None for nothing.
    """

    digest: bytes
    features: MediaFeatures | None = None
    pixels: TowerInputs | None = None
    in_tower: InTowerPruner | None = None

    @property
    def key(self) -> _Key:
        """What its features are cached under."""
        return self.digest, self.in_tower


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A question whose pictures are decoded, in its order."""

    request: EncodeRequest
    visuals: tuple[PreparedMedia, ...]

    @property
    def size(self) -> int:
        """Places that it takes in a batch: one for each part that must go through the tower, at least one."""
        return max(1, sum(visual.pixels.layout.num_inputs for visual in self.visuals if visual.pixels is not None))


class EncoderEngine:
    """Prepares and computes; holds no queue.

    Args:
        model: The towers.
        cache: Features of pictures seen lately.
        max_batch_size: Most pictures, tiles or frames in one forward of the vision tower, but for one that has more.
        max_image_bytes: Most bytes of a picture file.
        max_image_pixels: Most pixels of a picture.
        video_limits: What videos may be.
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
    ) -> None:
        self.model = model
        self._cache = cache
        self._max_batch_size = max_batch_size
        self.decoder = MediaDecoder(model.media, max_image_bytes, max_image_pixels, video_limits)

    def prepare(self, request: EncodeRequest) -> PreparedRequest:
        """A request with the media decoded whose features are not cached, in this thread.

        Raises:
            ServiceError: See `MediaDecoder`.
            ValueError: See `resolve_budget`.
        """
        visuals = []
        for source in request.media:
            visual = self.look_up(source, request)
            if visual.features is None:
                visual = self.with_pixels(visual, self.decoder(source), request)
            visuals.append(visual)
        return PreparedRequest(request, tuple(visuals))

    def look_up(self, source: MediaSource, request: EncodeRequest) -> PreparedMedia:
        """An image or video with its features where they are cached; without them it has to be decoded. Any thread."""
        digest = hashlib.sha256(source).digest() if isinstance(source, bytes) else source.digest
        requirements = request.pruner.requirements
        # With a pruner inside the tower, the key needs the budget of a part, and that the size of the decoded image.
        return PreparedMedia(digest, self._cached(digest, requirements) if requirements.in_tower is None else None)

    def with_pixels(self, visual: PreparedMedia, pixels: TowerInputs, request: EncodeRequest) -> PreparedMedia:
        """A decoded image or video, with its features where they turn out to be cached.

        Raises:
            ValueError: See `resolve_budget`.
        """
        requirements = request.pruner.requirements
        if requirements.in_tower is None:
            return dataclasses.replace(visual, pixels=pixels)
        keep = keep_in_tower(
            pixels.layout,
            keep_tokens=request.keep_tokens,
            keep_ratio=request.keep_ratio,
            most_tokens=request.most_tokens,
        )
        in_tower = None if keep is None else requirements.in_tower(keep)
        found = self._cached(visual.digest, requirements, in_tower)
        return PreparedMedia(visual.digest, found, None if found is not None else pixels, in_tower)

    def _cached(
        self, digest: bytes, requirements: FeatureRequirements, in_tower: InTowerPruner | None = None
    ) -> MediaFeatures | None:
        found = self._cache.get(digest, requirements.outputs, in_tower)
        return found if found is not None and found.have(found.layout.outputs(requirements)) else None

    @torch.inference_mode()
    def run(self, batch: Sequence[PreparedRequest]) -> list[tuple[EncodedMedia, ...] | Exception]:
        """The visual tokens of each question's pictures, or what went wrong with that question alone. Model thread."""
        start = time.perf_counter()
        batch = [self._look_again(prepared) for prepared in batch]
        visuals = self._encode_visuals(batch)
        texts = self._encode_questions([prepared.request for prepared in batch])
        outcomes: list[tuple[EncodedMedia, ...] | Exception] = []
        for prepared, text in zip(batch, texts, strict=True):
            try:
                outcomes.append(_prune(prepared, visuals, text))
            except Exception as error:  # a bad row must not take its batch-mates along
                outcomes.append(error)
        metrics.FORWARD_SECONDS.observe(time.perf_counter() - start)
        return outcomes

    def _look_again(self, prepared: PreparedRequest) -> PreparedRequest:
        """Takes features from the cache that an earlier batch has left there while this request waited."""
        requirements = prepared.request.pruner.requirements
        visuals = []
        for visual in prepared.visuals:
            features = visual.features or self._cached(visual.digest, requirements, visual.in_tower)
            visuals.append(visual if features is None else dataclasses.replace(visual, features=features, pixels=None))
        return dataclasses.replace(prepared, visuals=tuple(visuals))

    def _encode_visuals(self, batch: Sequence[PreparedRequest]) -> dict[_Key, MediaFeatures | Exception]:
        """Features of what was not cached: one forward for all that need the same views of one tower."""
        needed: dict[_Key, frozenset[TowerOutput]] = {}
        pixels: dict[bytes, TowerInputs] = {}
        for prepared in batch:
            for visual in prepared.visuals:
                if visual.pixels is not None:
                    outputs = visual.pixels.layout.outputs(prepared.request.pruner.requirements)
                    needed[visual.key] = needed.get(visual.key, frozenset()) | outputs
                    pixels[visual.digest] = visual.pixels
        groups: dict[tuple[frozenset[TowerOutput], InTowerPruner | None], list[bytes]] = {}
        for (digest, in_tower), outputs in needed.items():
            groups.setdefault((outputs, in_tower), []).append(digest)

        made: dict[_Key, MediaFeatures | Exception] = {}
        for (outputs, in_tower), digests in groups.items():
            for chunk in self._chunks(digests, pixels):

                def forward(
                    some: list[bytes],
                    outputs: frozenset[TowerOutput] = outputs,
                    in_tower: InTowerPruner | None = in_tower,
                ) -> list[MediaFeatures]:
                    return self.model.encode([pixels[digest] for digest in some], outputs, in_tower)

                outcomes = _isolated(forward, chunk)
                for digest, outcome in zip(chunk, outcomes, strict=True):
                    made[digest, in_tower] = outcome
                    if isinstance(outcome, MediaFeatures):
                        self._cache.put(digest, outcome, in_tower)
        return made

    def _chunks(self, digests: Sequence[bytes], pixels: dict[bytes, TowerInputs]) -> list[list[bytes]]:
        """`digests` in runs of at most `max_batch_size` parts; one that has more goes by itself."""
        chunks: list[list[bytes]] = []
        room = 0
        for digest in digests:
            size = pixels[digest].layout.num_inputs
            if size > room:
                chunks.append([])
                room = self._max_batch_size
            chunks[-1].append(digest)
            room -= size
        return chunks

    def _encode_questions(self, requests: Sequence[EncodeRequest]) -> list[TextFeatures | Exception | None]:
        """Features of the questions that are read: one forward for all that need the same of the text tower."""
        made: list[TextFeatures | Exception | None] = [None] * len(requests)
        for eos_attention in (False, True):
            rows = [
                i
                for i, request in enumerate(requests)
                if request.pruner.requirements.text
                and request.pruner.requirements.eos_attention == eos_attention
                and len(request.text_ids) >= self.model.min_text_ids
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
        count_failure(FailureKind.BATCH_SPLIT)
        return [outcome for item in items for outcome in _isolated(compute, [item])]


def _prune(
    prepared: PreparedRequest,
    visuals: dict[_Key, MediaFeatures | Exception],
    text: TextFeatures | Exception | None,
) -> tuple[EncodedMedia, ...]:
    """Runs the question's pruner on each of its pictures and videos, part by part."""
    if isinstance(text, Exception):
        raise text
    request, encoded = prepared.request, []
    for visual in prepared.visuals:
        features = visual.features or visuals[visual.key]
        if isinstance(features, Exception):
            raise features
        if request.joint_frames and features.layout.is_video:
            features = join_frames(features)
        # 62 bits: torch's generator takes a signed 64-bit seed and a pruner may add to it.
        seed = int.from_bytes(visual.digest[:8], "big") >> 2
        encoded.append(
            prune(
                features,
                request.pruner,
                keep_tokens=request.keep_tokens,
                keep_ratio=request.keep_ratio,
                most_tokens=request.most_tokens,
                text=text,
                seed=seed,
                features_cached=visual.features is not None,
            )
        )
        metrics.VISUAL_TOKENS_TOTAL.inc(encoded[-1].num_tokens_total)
        metrics.VISUAL_TOKENS_KEPT.inc(len(encoded[-1].positions))
    return tuple(encoded)
