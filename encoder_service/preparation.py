"""What the batcher drives: media decoded in worker processes, the model on a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from encoder_service.assembly import EncodedMedia
from encoder_service.engine import EncoderEngine, EncodeRequest, PreparedMedia, PreparedRequest
from encoder_service.media_decoding import MediaPool, MediaSource
from encoder_service.visual import TowerInputs
from fovea.errors import TooLarge, Unavailable, UnsupportedMedia
from fovea.processes.worker_pool import PoolClosed, TaskResult, WorkerTimeout
from fovea.processes.worker_process import WorkerDied

__all__ = ["EncoderCompute"]

T = TypeVar("T")
_Interval: TypeAlias = tuple[float, float]

# The decoder of a video looks at the clock between two frames, and its error says more than that of a worker killed.
_VIDEO_GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class EncoderCompute:
    """Preparation and computation of requests, see `batching.Computes`.

    Attributes:
        engine: what computes.
        pool: processes that decode.
        image_timeout_s: longest time to decode an image, in seconds.
    """

    engine: EncoderEngine
    pool: MediaPool
    image_timeout_s: float

    async def prepare(self, request: EncodeRequest) -> tuple[PreparedRequest, float]:
        """A request with its media decoded, and the seconds in which at least one of them was being decoded.

        Raises:
            TooLarge: a file takes too long to decode, or is larger than the limits.
            UnsupportedMedia: a file cannot be decoded.
            InvalidRequest: see `images.decode` and `videos.decode`.
        """
        done = await _all_or_first_error(self._prepare(source, request) for source in request.media)
        visuals = tuple(visual for visual, _ in done)
        return PreparedRequest(request, visuals), _covered_s([interval for _, interval in done if interval])

    def run(self, batch: Sequence[PreparedRequest]) -> Sequence[tuple[EncodedMedia, ...] | Exception]:
        """See `Engine.run`."""
        return self.engine.run(batch)

    async def _prepare(self, source: MediaSource, request: EncodeRequest) -> tuple[PreparedMedia, _Interval | None]:
        visual = await asyncio.to_thread(self.engine.look_up, source, request)
        if visual.features is not None:
            return visual, None
        ran = await self._decode(source)
        return self.engine.with_pixels(visual, ran.result, request), (ran.started_at, ran.ended_at)

    async def _decode(self, source: MediaSource) -> TaskResult[TowerInputs]:
        what, timeout_s = "image", self.image_timeout_s
        if not isinstance(source, bytes):
            what, timeout_s = "video", self.engine.decoder.video_limits.timeout_s + _VIDEO_GRACE_S
        try:
            return await self.pool.run(source, timeout_s=timeout_s)
        except WorkerTimeout:
            raise TooLarge(
                f"the {what} takes longer than {timeout_s:g} seconds to decode; a smaller one is accepted", param=what
            ) from None
        except WorkerDied as error:
            if error.is_crash:
                raise UnsupportedMedia(f"the {what} cannot be decoded", param=what) from error
            raise Unavailable(f"decoding the {what} was interrupted", retry_after_s=1.0) from error
        except PoolClosed:
            raise Unavailable("the encoder service is shutting down", retry_after_s=1.0) from None


async def _all_or_first_error(work: Iterable[Awaitable[T]]) -> list[T]:
    """Results in order; the first failure cancels the others and is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
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
