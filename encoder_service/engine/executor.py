"""Executor of the batcher: media are decoded in worker processes, the model runs on a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.engine import EncoderEngine, EncodeRequest, PreparedMedia, PreparedRequest
from encoder_service.media.decoding import MediaJob, MediaPool
from encoder_service.models.media_features import TowerInputs
from fovea.errors import TooLarge, Unavailable, UnsupportedMedia
from fovea.processes.worker_pool import PoolClosed, TaskResult, WorkerTimeout
from fovea.processes.worker_process import WorkerDied

__all__ = ["EncoderExecutor"]

T = TypeVar("T")
_Interval: TypeAlias = tuple[float, float]

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

    async def prepare(self, request: EncodeRequest) -> tuple[PreparedRequest, float]:
        """A request with its media decoded, and the seconds in which at least one of them was being decoded.

        Raises:
            TooLarge: A file takes too long to decode, or is larger than the limits.
            UnsupportedMedia: A file cannot be decoded.
            InvalidRequest: See `images.decode` and `videos.decode`.
        """
        prepared = await _all_or_first_error(self._prepare(job, request) for job in request.media)
        media = tuple(prepared_media for prepared_media, _ in prepared)
        return PreparedRequest(request, media), _covered_s([interval for _, interval in prepared if interval])

    def run(self, batch: Sequence[PreparedRequest]) -> Sequence[tuple[EncodedMedia, ...] | Exception]:
        """See `EncoderEngine.run`."""
        return self.engine.run(batch)

    async def _prepare(self, job: MediaJob, request: EncodeRequest) -> tuple[PreparedMedia, _Interval | None]:
        prepared = await asyncio.to_thread(self.engine.look_up, job, request)
        if prepared.features is not None:
            return prepared, None
        decoded = await self._decode(job)
        prepared = self.engine.with_tower_inputs(prepared, decoded.result, request)
        return prepared, (decoded.started_at, decoded.ended_at)

    async def _decode(self, job: MediaJob) -> TaskResult[TowerInputs]:
        kind, timeout_s = "image", self.image_timeout_s
        if not isinstance(job.item, bytes):
            kind, timeout_s = "video", self.engine.decoder.video_limits.timeout_s + _VIDEO_GRACE_S
        try:
            return await self.pool.run(job, timeout_s=timeout_s)
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


async def _all_or_first_error(coroutines: Iterable[Awaitable[T]]) -> list[T]:
    """Results in order; the first failure cancels the other tasks and is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _covered_s(intervals: Sequence[_Interval]) -> float:
    """Seconds that lie in at least one of the intervals."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered
