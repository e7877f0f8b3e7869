"""Executor of the batcher: media are decoded in worker processes, the model runs on a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from encoder_service import metrics
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.request_media import EncodeRequest, RequestMedia
from encoder_service.media.decoding import Measured, MediaItem, MediaPool, Unmeasured
from encoder_service.media.video_facts import VideoFacts
from encoder_service.media.videos import VideoFile
from encoder_service.models.media import MediaOptions
from encoder_service.models.media_features import TowerInputs
from fovea.errors import ServiceError, TooLarge, Unavailable, UnsupportedMedia
from fovea.processes.worker_pool import Interval, PoolClosed, WorkerTimeout
from fovea.processes.worker_process import WorkerDied

__all__ = ["EncoderExecutor"]

T = TypeVar("T")

# The video decoder checks its own timeout between frames, with an error that is more specific than a killed worker's.
_VIDEO_GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class EncoderExecutor:
    """Preparation and computation of requests, see `batching.BatchExecutor`.

    Attributes:
        engine: Engine that computes batches.
        pool: Worker processes that decode media.
        image_timeout_s: Longest time to decode an image, in seconds.
    """

    engine: EncoderEngine
    pool: MediaPool
    image_timeout_s: float

    async def prepare(self, request: EncodeRequest) -> tuple[tuple[RequestMedia, ...], float]:
        """Images and videos of a request, decoded, and the seconds in which at least one of them was being decoded.

        Raises:
            TooLarge: A file takes too long to decode, or is larger than the limits.
            UnsupportedMedia: A file cannot be decoded.
            InvalidRequest: See `images.decode` and `videos.decode`.

        Of several images or videos, the error names which one.
        """
        prepared = await _all_or_first_error(
            _numbered(self._prepare(item, request), number, request) for number, item in enumerate(request.items)
        )
        prepare_s = _covered_s([interval for _, ran in prepared for interval in ran])
        if prepare_s:
            metrics.PREPROCESSING_SECONDS.observe(prepare_s)
        return tuple(media for media, _ in prepared), prepare_s

    @property
    def is_backlogged(self) -> bool:
        """Whether an image or video waits for a worker process."""
        return self.pool.num_waiting > 0

    def size(self, media: Sequence[RequestMedia]) -> int:
        """Number of tower inputs of a request to compute, counted as at least 1."""
        tower_inputs = [item.tower_inputs for item in media if item.tower_inputs is not None]
        return max(1, sum(inputs.layout.num_inputs for inputs in tower_inputs))

    def run(self, batch: Sequence[Sequence[RequestMedia]]) -> Sequence[tuple[EncodedMedia, ...] | Exception]:
        """See `EncoderEngine.run`."""
        return self.engine.run(batch)

    async def _prepare(self, item: MediaItem, request: EncodeRequest) -> tuple[RequestMedia, list[Interval]]:
        media = await asyncio.to_thread(self.engine.look_up, item, request)
        if media.features is not None:
            return media, []
        intervals: list[Interval] = []
        decodable: MediaItem | Measured = item
        if isinstance(item, VideoFile):
            # What a video costs is known once its packets are counted, which costs little.
            facts = await self._run(Unmeasured(item), request.media_options, intervals)
            assert isinstance(facts, VideoFacts)
            decodable = Measured(item, facts)
        tower_inputs = await self._run(decodable, request.media_options, intervals)
        assert isinstance(tower_inputs, TowerInputs)
        return self.engine.with_tower_inputs(media, tower_inputs), intervals

    async def _run(
        self, item: MediaItem | Unmeasured | Measured, options: MediaOptions, intervals: list[Interval]
    ) -> TowerInputs | VideoFacts:
        """Result of a worker, once one is idle and the memory is free. Adds when it ran to `intervals`."""
        kind, timeout_s = "image", self.image_timeout_s
        if not isinstance(item, bytes):
            kind, timeout_s = "video", self.engine.decoder.video_limits.timeout_s + _VIDEO_GRACE_S
        num_bytes = await asyncio.to_thread(self.engine.decoder.memory, item, options)
        if num_bytes > self.pool.max_bytes:
            raise TooLarge(
                f"the {kind} takes {num_bytes:,} bytes of memory to decode; at most {self.pool.max_bytes:,} are"
                " accepted, as for smaller or fewer frames or another format",
                param=kind,
            )
        try:
            result, interval = await self.pool.run(item, options, timeout_s=timeout_s, num_bytes=num_bytes)
        except WorkerTimeout:
            raise TooLarge(
                f"the {kind} takes longer than {timeout_s:g} seconds to decode; a smaller one is accepted", param=kind
            ) from None
        except WorkerDied as error:
            if error.is_crash:
                raise UnsupportedMedia(f"the {kind} cannot be decoded", param=kind) from error
            raise Unavailable(f"decoding the {kind} was interrupted", retry_after_s=1.0) from error
        except PoolClosed:
            raise Unavailable("the encoder service is shutting down", retry_after_s=1.0) from None
        intervals.append(interval)
        return result


async def _numbered(preparing: Awaitable[T], number: int, request: EncodeRequest) -> T:
    """Result of preparing item `number` of a request. An error names which of several images or videos it is."""
    try:
        return await preparing
    except ServiceError as error:
        num_images = len(request.images)
        kind, index, count = "image", number, num_images
        if number >= num_images:
            kind, index, count = "video", number - num_images, len(request.videos)
        if error.param != kind or count == 1:
            raise
        text = f"{kind} {index + 1} of {count}: {error.message}"
        raise type(error)(text, param=f"{kind}s.{index}", retry_after_s=error.retry_after_s) from error


async def _all_or_first_error(coroutines: Iterable[Awaitable[T]]) -> list[T]:
    """Results in order; the first failure cancels the other tasks and is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _covered_s(intervals: Sequence[Interval]) -> float:
    """Seconds that lie in at least one of the intervals."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered
