"""Images and videos of requests with given features, for tests of what comes after the tower."""

from __future__ import annotations

from encoder_service.engine.request_media import EncodeRequest, RequestMedia
from encoder_service.engine.wire_values import DeviceFormat
from encoder_service.models.media_features import MediaFeatures
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import BoundPruner
from fovea.budget import Budget

__all__ = ["request_media"]

_NONE = PRUNERS["none"].bind({})
_ALL = Budget.ratio(1.0)


def request_media(
    features: MediaFeatures,
    pruner: BoundPruner = _NONE,
    budget: Budget = _ALL,
    *,
    wire_format: DeviceFormat = "float32",
) -> RequestMedia:
    """The only image or video of a request without a question; its seed is 0."""
    return RequestMedia(EncodeRequest((), (), pruner, budget, wire_format=wire_format), bytes(32), features=features)
