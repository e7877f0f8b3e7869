"""The model that the encoder service serves, with what computes on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from encoder_service.engine.batching import Batcher
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.request_media import EncodeRequest, RequestMedia
from encoder_service.media.decoding import MediaPool
from encoder_service.models.base import EncoderModel
from encoder_service.server.default_pruning import PAPER, DefaultPruning
from fovea.wire.basis import WireBasis

__all__ = ["EncoderBatcher", "ServedModel"]

log = logging.getLogger("encoder_service")

EncoderBatcher: TypeAlias = Batcher[EncodeRequest, tuple[RequestMedia, ...], tuple[EncodedMedia, ...]]

_WATCH_INTERVAL_S: Final = 0.5


@dataclass(frozen=True)
class ServedModel:
    """A loaded model, see `fovea.service.ServedModel`.

    Attributes:
        model: Towers of the checkpoint.
        pool: Worker processes that decode media.
        batcher: Queue of requests, whose batches run on the model.
        basis: Wire basis that is loaded.
        pruning: Pruner and budget of requests that name none.
        max_decode_wait_s: Queue time of a media file in seconds above which health says NOT_SERVING.
    """

    model: EncoderModel
    pool: MediaPool
    batcher: EncoderBatcher
    basis: WireBasis | None = None
    pruning: DefaultPruning = PAPER
    max_decode_wait_s: float = 10.0

    def __str__(self) -> str:
        return f"{self.model.device}, {self.model.dtype}, {self.pruning}"

    @property
    def num_waiting(self) -> int:
        """See `Batcher.num_waiting`."""
        return self.batcher.num_waiting

    @property
    def num_running(self) -> int:
        """See `Batcher.num_running`."""
        return self.batcher.num_running

    @property
    def queue_time_s(self) -> float:
        """See `Batcher.queue_time_s`."""
        return self.batcher.queue_time_s

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Context in which the worker processes and the batcher run.

        Raises:
            WorkerDied: No worker process can be started.
        """
        async with self.pool, self.batcher:
            yield

    async def watch(self, report_serving: Callable[[bool], Awaitable[None]]) -> None:
        """Reports NOT_SERVING while media wait too long to be decoded. Never returns."""
        serving = True
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            if (self.pool.num_workers > 0 and self.pool.longest_wait_s <= self.max_decode_wait_s) != serving:
                serving = not serving
                log.warning("media wait too long to be decoded" if not serving else "media are decoded in time again")
                await report_serving(serving)
