"""Requests, and their images and videos on the way from the file to the features that are pruned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from encoder_service.engine.feature_cache import FeatureKey
from encoder_service.engine.wire_values import DeviceFormat
from encoder_service.media.decoding import MediaItem
from encoder_service.media.videos import VideoItem
from encoder_service.models.media import MediaOptions
from encoder_service.models.media_features import MediaFeatures, TowerInputs
from encoder_service.pruners.base import BoundPruner, TextFeatures
from encoder_service.pruners.in_tower import InTowerPruner
from fovea import tracing
from fovea.budget import Budget

__all__ = ["EncodeRequest", "RequestMedia", "TextRow"]

_DEFAULT_MEDIA_OPTIONS: Final = MediaOptions()


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
        cache_salt: Tenant whose cached features may be used; empty for those without a salt.
        span: Span of the call, see `tracing.current`.
    """

    images: tuple[bytes, ...]
    text_ids: tuple[int, ...]
    pruner: BoundPruner
    budget: Budget
    videos: tuple[VideoItem, ...] = ()
    joins_frames: bool = False
    wire_format: DeviceFormat = "float32"
    media_options: MediaOptions = _DEFAULT_MEDIA_OPTIONS
    cache_salt: str = ""
    span: Any = field(default_factory=tracing.current, compare=False, repr=False)

    @property
    def items(self) -> tuple[MediaItem, ...]:
        """Images, then videos."""
        return (*self.images, *self.videos)


@dataclass(frozen=True, slots=True)
class TextRow:
    """Features of one question: a row of a batch that the text tower computed."""

    batch: TextFeatures
    row: int


@dataclass(frozen=True, slots=True, eq=False)
class RequestMedia:
    """An image or video of a request. With neither tower inputs nor features, it must still be decoded.

    Attributes:
        request: The request, with the pruner, budget and options that apply to it.
        digest: See `media_digest`.
        tower_inputs: Decoded image or video; None before it is decoded, and if its features are known.
        features: Features before pruning, or features of a tower that was pruned inside; None before they are computed.
        features_cached: Whether the features come from the cache.
        in_tower: Pruner inside the tower; None for none.
        text: Features of the request's question; None if the pruner reads none, or before they are computed.
    """

    request: EncodeRequest
    digest: bytes
    tower_inputs: TowerInputs | None = None
    features: MediaFeatures | None = None
    features_cached: bool = False
    in_tower: InTowerPruner | None = None
    text: TextRow | None = None

    @property
    def key(self) -> FeatureKey:
        """Key of the features in the feature cache."""
        return FeatureKey(self.digest, self.in_tower, self.request.cache_salt)

    @property
    def seed(self) -> int:
        """Seed of random choices, equal for equal images and videos, also of different tenants."""
        # 62 bits: torch's generator takes a signed 64-bit seed and a pruner may add to it.
        return int.from_bytes(self.digest[:8], "big") >> 2

    @property
    def unpruned(self) -> MediaFeatures:
        """The features of an image or video that is ready to be pruned."""
        assert self.features is not None
        return self.features
