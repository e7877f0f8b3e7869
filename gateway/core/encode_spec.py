"""The encode call of a question: media, text and options, as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from google.protobuf import struct_pb2

from fovea.budget import Budget
from fovea.v1 import encoder_pb2
from fovea.wire.budgets import write_budget
from fovea.wire.formats import format_named
from fovea.wire.image_fits import IMAGE_FITS, ImageFit
from gateway.media.files import MediaFile, Video

__all__ = ["EncodeSpec", "VideoBudget"]

VideoBudget = Literal["per_frame", "whole"]

_VIDEO_BUDGETS: Final = {
    "per_frame": encoder_pb2.VIDEO_BUDGET_PER_FRAME,
    "whole": encoder_pb2.VIDEO_BUDGET_WHOLE,
}


@dataclass(frozen=True, kw_only=True)
class EncodeSpec:
    """Specification of an encode call. None stands for a default, until the planner has filled it in.

    An option of the encoder is one attribute and one line in `to_proto`. The REST adapter fills the attributes from the
    request's fields of the same names. Cache keys are digests of the message, so they depend on every option.

    Attributes:
        images: Image files.
        videos: Videos; their visual tokens follow those of the images.
        text_ids: Ids of the question; empty for pruners that read no text.
        pruner: Name of the pruner.
        pruner_params: Parameters of the pruner by name.
        budget: Visual tokens to keep of each image or video.
        wire_dtype: Wire format; None for the encoder service's choice.
        max_wire_bytes: Maximum number of bytes of all visual tokens; None for no limit.
        num_frames: Number of frames to sample from a video file; None for the model's.
        seconds_per_frame: Seconds from one frame of a list to the next; None if unknown.
        video_budget: Use of a video's budget.
        image_fit: Way to bring an image to the square that the tower takes.
        explain: Whether score maps are returned.
        cache_salt: Tenant to whom cached results belong; empty for none.
    """

    images: tuple[MediaFile, ...] = ()
    videos: tuple[Video, ...] = ()
    text_ids: tuple[int, ...] = ()
    pruner: str | None = None
    pruner_params: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget | None = None
    wire_dtype: str | None = None
    max_wire_bytes: int | None = None
    num_frames: int | None = None
    seconds_per_frame: float | None = None
    video_budget: VideoBudget | None = None
    image_fit: ImageFit | None = None
    explain: bool = False
    cache_salt: str = ""

    @property
    def num_pixels(self) -> int:
        """Pixels of all images and frames of lists, by their headers. Video files have none here."""
        files = [*self.images, *(frame for video in self.videos for frame in video.frames)]
        return sum(file.num_pixels for file in files)

    @property
    def num_media(self) -> int:
        """Number of images and videos."""
        return len(self.images) + len(self.videos)

    def to_proto(self, content: Callable[[MediaFile], bytes] = lambda file: file.data) -> encoder_pb2.EncodeRequest:
        """The message.

        Args:
            content: Function from a file to the bytes that stand for it.
        """
        params = struct_pb2.Struct()
        if self.pruner_params:
            params.update(self.pruner_params)
        request = encoder_pb2.EncodeRequest(
            images=[content(image) for image in self.images],
            text_ids=self.text_ids,
            pruner=self.pruner,
            pruner_params=params,
            wire_dtype=format_named(self.wire_dtype).dtype if self.wire_dtype is not None else None,
            max_wire_bytes=self.max_wire_bytes,
            explain=self.explain,
            videos=[self._video(video, content) for video in self.videos],
            video_budget=_VIDEO_BUDGETS[self.video_budget] if self.video_budget is not None else None,
            image_fit=IMAGE_FITS[self.image_fit] if self.image_fit is not None else None,
            cache_salt=self.cache_salt,
        )
        if self.budget is not None:
            write_budget(self.budget, request)
        return request

    def to_key_proto(self) -> encoder_pb2.EncodeRequest:
        """The message with the digest of each file in its place, from which cache keys are made."""
        return self.to_proto(content=lambda file: bytes.fromhex(file.sha256))

    def _video(self, video: Video, content: Callable[[MediaFile], bytes]) -> encoder_pb2.Video:
        if video.file is not None:
            return encoder_pb2.Video(file=content(video.file), num_frames=self.num_frames)
        images = [content(frame) for frame in video.frames]
        return encoder_pb2.Video(frames=encoder_pb2.Frames(images=images, seconds_per_frame=self.seconds_per_frame))
