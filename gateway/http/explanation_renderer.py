"""Explanations as PNG files, rendered in worker processes, because rendering decodes the images again."""

from __future__ import annotations

import asyncio
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from fovea.errors import TooLarge, Unavailable, UnsupportedMedia
from fovea.media.images import decode
from fovea.processes import fork_server
from fovea.processes.worker_pool import PoolClosed, WorkerPool, WorkerTimeout
from fovea.processes.worker_process import WorkerDied
from fovea.visualization.explanation import ExplainedImage
from fovea.visualization.figures import draw_activation_maps, draw_explanations
from gateway.http.schemas.explain import ExplainResponse

__all__ = ["ExplanationRenderer"]

# Each worker holds up to two decoded images of 3 bytes a pixel. Few workers bound the memory; other requests wait.
_WORKERS: Final = 2
_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class _RenderJob:
    """Input of one drawing.

    Attributes:
        images: Image files.
        question: The question.
        response: Fields of an `ExplainResponse`.
    """

    images: tuple[bytes, ...]
    question: str
    response: dict[str, Any]


_RenderPool: TypeAlias = WorkerPool[bytes, _RenderJob]


class ExplanationRenderer:
    """Renderer of `/v1/explain`. Its worker processes start with the first drawing.

    Args:
        max_bytes: Largest accepted image file in bytes.
        max_pixels: Largest accepted image in pixels.
    """

    def __init__(self, *, max_bytes: int, max_pixels: int) -> None:
        self._render = functools.partial(_render, max_bytes=max_bytes, max_pixels=max_pixels)
        self._pool_start: asyncio.Future[_RenderPool] | None = None

    async def render_png(self, images: Sequence[bytes], question: str, response: ExplainResponse) -> bytes:
        """A PNG file: patches and both score maps of each image, or the activation maps if `response` has them.

        Raises:
            InvalidRequest: An image was cut into tiles.
            TooLarge: An image has too many pixels, or the drawing takes too long.
            UnsupportedMedia: An image cannot be decoded.
            Unavailable: The gateway is shutting down, or cannot start a worker process.
        """
        job = _RenderJob(tuple(images), question, response.model_dump())
        try:
            pool = await self._started_pool()
            drawing, _ = await pool.run(job, timeout_s=_TIMEOUT_S)
            return drawing
        except WorkerTimeout:
            raise TooLarge(
                f"the images take longer than {_TIMEOUT_S:g} seconds to draw; smaller ones are accepted", param="image"
            ) from None
        except WorkerDied as error:
            if error.is_crash:
                raise UnsupportedMedia("an image cannot be decoded", param="image") from error
            raise Unavailable("the drawing was interrupted", retry_after_s=1.0) from error
        except PoolClosed:
            raise Unavailable("the gateway is shutting down", retry_after_s=1.0) from None

    async def _started_pool(self) -> _RenderPool:
        """The worker pool. A caller that is cancelled while the pool starts does not cancel the start."""
        if self._pool_start is None or (self._pool_start.done() and self._pool_start.exception() is not None):
            self._pool_start = asyncio.ensure_future(self._start_pool())
        return await asyncio.shield(self._pool_start)

    async def _start_pool(self) -> _RenderPool:
        await asyncio.to_thread(fork_server.preload, __name__)
        return await WorkerPool(self._render, size=_WORKERS).__aenter__()

    async def close(self) -> None:
        """Ends the drawings in progress and the worker processes."""
        if self._pool_start is None:
            return
        pool = (await asyncio.gather(self._pool_start, return_exceptions=True))[0]
        if isinstance(pool, WorkerPool):
            await pool.__aexit__()


def _render(job: _RenderJob, *, max_bytes: int, max_pixels: int) -> bytes:
    explained = ExplainedImage.list_from_response(job.question, job.response)
    images = (decode(image, max_bytes=max_bytes, max_pixels=max_pixels) for image in job.images)
    pairs = zip(images, explained, strict=True)
    drawing = (draw_explanations if job.response.get("maps") is None else draw_activation_maps)(pairs)
    file = io.BytesIO()
    drawing.save(file, "PNG")
    return file.getvalue()
