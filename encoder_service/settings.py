"""Settings of the encoder service: `--flag` or `ENCODER_FLAG`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from encoder_service.media.video_limits import VideoLimits
from fovea.settings import HostAndPort, KeepRatio, ModelSettings, settings_config
from fovea.wire.formats import WireFormatName
from fovea.wire.image_fits import ImageFit

__all__ = ["EncoderSettings"]

_VIDEO: Final = VideoLimits()


class EncoderSettings(ModelSettings):
    model_config = settings_config("python -m encoder_service", "ENCODER_")

    model: str
    """Checkpoint of a vision-language model: a directory, or a hub id such as llava-hf/llava-1.5-7b-hf. Only its vision
    tower is loaded."""
    text_tower: str = ""
    """CLIP checkpoint with the text tower and the projections that fit the vision tower: a directory or a hub id. Empty
    for the family's own: LanguageBind/LanguageBind_Image for Video-LLaVA, else openai/clip-vit-large-patch14-336. One
    that does not fit stops the service at start."""
    listen: HostAndPort = Field("127.0.0.1:50051", description=ModelSettings.model_fields["listen"].description)
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    """Attention of the vision tower's layers. eager holds whole attention maps in memory."""
    cuda_graphs: Literal["off", "auto"] = "off"
    """auto captures vision tower, text tower, `desap` and `fovea` as CUDA graphs before the service is ready, for the
    default budget and a few batch sizes; only on CUDA, and for the LLaVA families. It has not been measured yet."""
    compile: bool = False
    """Lets torch compile the layers of the vision tower before the service is ready, which takes minutes. For the
    LLaVA families."""
    num_threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of one forward; 0: one for each core that the process may use (affinity, cgroup quota), but one for
    each 8 million parameters of the model at most."""
    pruner: str = ""
    """Pruner of requests that name none. Empty: that of fovea.json in the checkpoint, else desap."""
    keep_ratio: KeepRatio | None = None
    """Budget of requests that name none: the share of an image's tokens to keep, at least one token. Left out: that of
    fovea.json in the checkpoint if its pruner is the default, else 0.111."""
    image_fit: ImageFit = "crop"
    """How images, and frames of videos, of requests that name nothing are brought to the tower's square. crop: as the
    checkpoint's processor, which cuts the sides of long images off for LLaVA-1.5 and Video-LLaVA. pad: the whole image
    on a square, for these two families; with another one the service stops at start. An image whose square has more
    than --max-image-pixels (a frame: --max-video-frame-pixels) is then refused with OUT_OF_RANGE."""
    wire_dtype: WireFormatName = "float16"
    """Wire format of requests that name none. An image with a value beyond float16 is refused in float16."""
    max_batch_size: Annotated[int, Field(ge=1, le=1024)] = 8
    """Most tower inputs (images, tiles, frames) in one forward. A request with more runs by itself, in several."""
    max_batch_delay_ms: Annotated[float, Field(ge=0, le=1000)] = 5.0
    """Longest that the first request of a batch waits for others whose media are being decoded. A full batch, or one
    that no such request can join, runs at once."""
    max_queue_size: Annotated[int, Field(ge=1)] = 64
    """Most requests that wait for compute. The next is refused at once with RESOURCE_EXHAUSTED and a time to retry.
    Each holds its media files in memory."""
    max_queue_time_s: Annotated[float, Field(gt=0)] = 10.0
    """Longest estimated queue time of an accepted request, in seconds. One that would have to wait longer, or that
    could not be computed before its deadline, is refused at once with RESOURCE_EXHAUSTED and a time to retry. The
    estimate is the measured rate at which requests leave the queue."""
    max_image_bytes: Annotated[int, Field(ge=1)] = 16 * 2**20
    """Most bytes of an image file; a larger one is refused with OUT_OF_RANGE."""
    max_image_pixels: Annotated[int, Field(ge=1)] = 50_000_000
    """Most pixels of an image; a larger one is refused with OUT_OF_RANGE by its header, before it is decoded."""
    max_video_bytes: Annotated[int, Field(ge=1)] = _VIDEO.max_bytes
    """Most bytes of a video file, or of all frames of a video together; more is refused with OUT_OF_RANGE. A request
    must fit --max-message-bytes as well."""
    max_video_frames: Annotated[int, Field(ge=1, le=1024)] = _VIDEO.max_frames
    """Most frames that are sampled of a video, or that a list of frames may have."""
    max_video_frame_pixels: Annotated[int, Field(ge=1)] = _VIDEO.max_frame_pixels
    """Most pixels of a video's frame; a video of larger ones is refused with OUT_OF_RANGE by its header."""
    max_video_pixels: Annotated[int, Field(ge=1)] = _VIDEO.max_pixels
    """Most pixels of all sampled frames of a video together, refused with OUT_OF_RANGE; they take 3 bytes each. The
    default holds 64 frames of 1920 x 1080."""
    max_video_seconds: Annotated[float, Field(gt=0)] = _VIDEO.max_seconds
    """Longest duration of a video file; a longer one is refused with OUT_OF_RANGE before it is decoded."""
    video_decode_timeout_s: Annotated[float, Field(gt=0)] = _VIDEO.timeout_s
    """Longest that one video file may take to decode; then it is refused with OUT_OF_RANGE."""
    image_decode_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    """Longest that one image file may take to decode; then it is refused with OUT_OF_RANGE."""
    jpeg_reduced_scale: Literal["off", "on"] = "off"
    """Whether JPEG images are decoded at 1/2, 1/4 or 1/8 of their size where that is at least the size to which the
    model's processor resizes them. Faster for large images; on changes pixel values a little."""
    decode_workers: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes that decode images and videos, one file at a time each; 0: one for each core that the service may use.
    --max-decode-bytes bounds their memory."""
    max_decode_bytes: Annotated[int, Field(ge=2**26)] = 1536 * 2**20
    """Memory for the images and videos that are decoded at the same time; others wait, which counts as queue time. An
    image takes up to 13 bytes for each pixel (13 for WebP and JPEG in several scans, 9 for others): 0.7 GB with the
    default --max-image-pixels; a video 4 for each sampled pixel, and about 30 for those of one frame. What can never
    fit is refused with OUT_OF_RANGE."""
    max_decode_wait_s: Annotated[float, Field(gt=0)] = 10.0
    """Health says NOT_SERVING while an image or video has waited longer than this for a process that decodes it."""
    feature_cache_bytes: Annotated[int, Field(ge=0)] = 512 * 2**20
    """Memory, on the device, for the cache of features; the oldest are evicted. 0 for none."""
    default_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Deadline of a call that carries none. A request that is not computed by then is aborted."""

    @field_validator("pruner")
    @classmethod
    def _known_pruner(cls, value: str) -> str:
        if not value:
            return value
        from encoder_service.pruners import PRUNERS  # imports torch, which no other setting needs

        if value not in PRUNERS:
            raise ValueError(f"there is no pruner {value!r}; accepted: {', '.join(PRUNERS)}")
        return value
