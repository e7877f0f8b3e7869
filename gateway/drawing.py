"""Explanations as PNG files, drawn in processes of their own: drawing decodes the images once more."""

from __future__ import annotations

import asyncio
import functools
import io
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from fovea import worker_pool
from fovea.errors import TooLarge, UnsupportedMedia
from fovea.explained import Explained
from fovea.images import decode
from fovea.sheet import draw_activation_maps, draw_explanations
from fovea.worker_pool import WorkerDied, WorkerPool, WorkerTimeout
from gateway.schemas.explain import ExplainResponse

__all__ = ["Drawing"]

# Each holds up to two decoded images, 3 bytes a pixel: a few at a time bound the memory, the others wait.
_WORKERS: Final = 2
_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Sheet:
    """One drawing: image files, the question, and the fields of an `ExplainResponse`."""

    pictures: tuple[bytes, ...]
    question: str
    response: dict[str, Any]


class Drawing:
    """Draws what `/v1/explain` tells. The processes that do it start with the first drawing.

    Args:
        max_bytes: Largest picture file.
        max_pixels: Largest picture that is decoded.
    """

    def __init__(self, *, max_bytes: int, max_pixels: int) -> None:
        draw = functools.partial(_draw, max_bytes=max_bytes, max_pixels=max_pixels)
        self._workers: WorkerPool[_Sheet, bytes] = WorkerPool(draw, size=_WORKERS)
        self._resources = AsyncExitStack()
        self._starting = asyncio.Lock()
        self._started = False

    async def png(self, pictures: Sequence[bytes], question: str, response: ExplainResponse) -> bytes:
        """A PNG file: patches and both maps of each picture, or the activation maps where the response has them.

        Raises:
            InvalidRequest: A picture was cut into tiles.
            TooLarge: More pixels than are drawn, or more work than there is time for.
            UnsupportedMedia: A picture cannot be decoded.
        """
        await self._start()
        sheet = _Sheet(tuple(pictures), question, response.model_dump())
        try:
            return (await self._workers.run(sheet, timeout_s=_TIMEOUT_S)).result
        except WorkerTimeout:
            raise TooLarge(
                f"the images take longer than {_TIMEOUT_S:g} seconds to draw; smaller ones are accepted", param="image"
            ) from None
        except WorkerDied as error:
            raise UnsupportedMedia("an image cannot be decoded", param="image") from error

    async def _start(self) -> None:
        async with self._starting:
            if not self._started:
                worker_pool.preload(__name__)
                await self._resources.enter_async_context(self._workers)
                self._started = True

    async def close(self) -> None:
        """Ends what is being drawn."""
        await self._resources.aclose()


def _draw(sheet: _Sheet, *, max_bytes: int, max_pixels: int) -> bytes:
    explained = Explained.of_pictures(sheet.question, sheet.response)
    images = (decode(picture, max_bytes=max_bytes, max_pixels=max_pixels) for picture in sheet.pictures)
    shown = zip(images, explained, strict=True)
    drawing = (draw_explanations if sheet.response.get("maps") is None else draw_activation_maps)(shown)
    file = io.BytesIO()
    drawing.save(file, "PNG")
    return file.getvalue()
