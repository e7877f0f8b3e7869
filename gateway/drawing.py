"""Explanations as PNG files, drawn on threads of their own."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from fovea.explained import Explained
from fovea.images import decode
from fovea.sheet import draw_activation_maps, draw_explanations
from gateway.schemas.explain import ExplainResponse

__all__ = ["Drawing"]

# Each holds up to two decoded pictures, 3 bytes a pixel: a few at a time bound the memory, the others wait.
_WORKERS: Final = 2


class Drawing:
    """Draws what `/v1/explain` tells.

    Args:
        max_bytes: Largest picture file.
        max_pixels: Largest picture that is decoded.
    """

    def __init__(self, *, max_bytes: int, max_pixels: int) -> None:
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(_WORKERS, thread_name_prefix="drawing")

    async def png(self, pictures: Sequence[bytes], question: str, response: ExplainResponse) -> bytes:
        """A PNG file: patches and both maps of each picture, or the activation maps where the response has them.

        Raises:
            InvalidRequest: A picture was cut into tiles.
            TooLarge: More pixels than are drawn.
            UnsupportedMedia: A picture cannot be decoded.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._draw, pictures, question, response)

    def _draw(self, pictures: Sequence[bytes], question: str, response: ExplainResponse) -> bytes:
        explained = Explained.of_pictures(question, response.model_dump())
        images = (decode(picture, max_bytes=self._max_bytes, max_pixels=self._max_pixels) for picture in pictures)
        shown = zip(images, explained, strict=True)
        sheet = (draw_explanations if response.maps is None else draw_activation_maps)(shown)
        file = io.BytesIO()
        sheet.save(file, "PNG")
        return file.getvalue()

    def close(self) -> None:
        """Drops what has not begun; what has begun ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
