"""Settings of the gateway for requests: defaults and limits."""

from __future__ import annotations

from typing import Final

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from fovea.settings import CommaSeparated, KeepRatio, ServiceSettings
from fovea.wire.formats import OptionalWireFormatName
from gateway.media.urls import ascii_host

__all__ = ["RequestSettings"]

MiB: Final = 2**20


class RequestSettings(ServiceSettings):
    """Defaults and limits of one request."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True, protected_namespaces=())

    pruner: str = ""
    """Pruner for requests that name none; empty: the encoder's default."""

    keep_ratio: KeepRatio | None = None
    """Share of visual tokens kept for requests that set no budget; left out: the encoder's default."""

    wire_dtype: OptionalWireFormatName = ""
    """Wire format of visual tokens for requests that set none; empty: the encoder's default."""

    max_image_bytes: int = Field(default=16 * MiB, ge=1)
    """Largest image file, uploaded, inline or fetched; beyond it 413."""

    max_image_pixels: int = Field(default=50_000_000, ge=1)
    """Largest image, or frame of a list, in pixels by its header; beyond it 413, before it is sent to the encoder
    service, which has its own limit."""

    max_video_bytes: int = Field(default=16 * MiB, ge=1)
    """Largest video file, uploaded, inline or fetched; beyond it 413."""

    max_images: int = Field(default=8, ge=1, le=64)
    """Most images in one request, all turns of `messages` together, up to 64; beyond it 422. The family of the model
    has a limit of its own, which no setting raises: 8 for each family of docs/models.md."""

    max_videos: int = Field(default=8, ge=1, le=16)
    """Most videos in one request, up to 16; beyond it 422. The family of the model has a limit of its own, which no
    setting raises: 4, or none (docs/models.md)."""

    max_video_frames: int = Field(default=64, ge=1, le=1024)
    """Most frames of one video, as a list or in `num_frames`, up to 1024; beyond it 422. The encoder service has its
    own limit."""

    max_question_chars: int = Field(default=8000, ge=1)
    """Longest question, or text of the last user turn of `messages`, in characters; beyond it 422."""

    max_messages_chars: int = Field(default=32_000, ge=1)
    """Longest chat history: characters of all texts in `messages`; beyond it 422."""

    max_tokens: int = Field(default=2048, ge=1)
    """Largest `max_tokens` of a request; beyond it 422. A chat's number above it stands for the limit, and so does the
    default of /v1/answer."""

    default_timeout_s: float = Field(default=60.0, gt=0)
    """Deadline in seconds of a request that sets no `timeout_s`; then 504."""

    max_timeout_s: float = Field(default=600.0, gt=0)
    """Largest `timeout_s` of a request; beyond it 422."""

    fetch_hosts: CommaSeparated[tuple[str, ...]] = ()
    """Comma-separated host names from which https images and videos may be fetched. Empty: fetching is off, and https
    URLs are a 422. Names that resolve to private addresses are refused, redirects are not followed."""

    @field_validator("fetch_hosts")
    @classmethod
    def _are_fetch_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(ascii_host, value))
