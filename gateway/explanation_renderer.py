"""Explanations as PNG files, drawn in processes of their own: drawing decodes the images once more."""

from __future__ import annotations

import asyncio
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from fovea.errors import TooLarge, Unavailable, UnsupportedMedia
from fovea.media.images import decode
from fovea.processes import worker_process
from fovea.processes.worker_pool import PoolClosed, WorkerPool, WorkerTimeout
from fovea.processes.worker_process import WorkerDied
from fovea.visualization.explanation import Explained
from fovea.visualization.figures import draw_activation_maps, draw_explanations
from gateway.schemas.explain import ExplainResponse

__all__ = ["ExplanationRenderer"]

# Each holds up to two decoded images, 3 bytes a pixel: a few at a time bound the memory, the others wait.
_WORKERS: Final = 2
_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Sheet:
    """One drawing: image files, the question, and the fields of an `ExplainResponse`."""

    pictures: tuple[bytes, ...]
    question: str
    response: dict[str, Any]


_Drawers: TypeAlias = WorkerPool[_Sheet, bytes]


class ExplanationRenderer:
    """Draws what `/v1/explain` tells. The processes that do it start with the first drawing.

    Args:
        max_bytes: Largest picture file.
        max_pixels: Largest picture that is decoded.
    """

    def __init__(self, *, max_bytes: int, max_pixels: int) -> None:
        self._draw = functools.partial(_draw, max_bytes=max_bytes, max_pixels=max_pixels)
        self._starting: asyncio.Future[_Drawers] | None = None

    async def png(self, pictures: Sequence[bytes], question: str, response: ExplainResponse) -> bytes:
        """A PNG file: patches and both maps of each picture, or the activation maps where the response has them.

        Raises:
            InvalidRequest: A picture was cut into tiles.
            TooLarge: More pixels than are drawn, or more work than there is time for.
            UnsupportedMedia: A picture cannot be decoded.
            Unavailable: The gateway is shutting down, or cannot start a process.
        """
        sheet = _Sheet(tuple(pictures), question, response.model_dump())
        try:
            drawers = await self._started()
            return (await drawers.run(sheet, timeout_s=_TIMEOUT_S)).result
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

    async def _started(self) -> _Drawers:
        """The processes. Whoever leaves while they start does not end the start."""
        if self._starting is None or (self._starting.done() and self._starting.exception() is not None):
            self._starting = asyncio.ensure_future(self._start())
        return await asyncio.shield(self._starting)

    async def _start(self) -> _Drawers:
        await asyncio.to_thread(worker_process.preload, __name__)
        return await WorkerPool(self._draw, size=_WORKERS).__aenter__()

    async def close(self) -> None:
        """Ends what is being drawn."""
        if self._starting is None:
            return
        drawers = (await asyncio.gather(self._starting, return_exceptions=True))[0]
        if isinstance(drawers, WorkerPool):
            await drawers.__aexit__()


def _draw(sheet: _Sheet, *, max_bytes: int, max_pixels: int) -> bytes:
    explained = Explained.of_pictures(sheet.question, sheet.response)
    images = (decode(picture, max_bytes=max_bytes, max_pixels=max_pixels) for picture in sheet.pictures)
    shown = zip(images, explained, strict=True)
    drawing = (draw_explanations if sheet.response.get("maps") is None else draw_activation_maps)(shown)
    file = io.BytesIO()
    drawing.save(file, "PNG")
    return file.getvalue()
