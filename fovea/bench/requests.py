"""Requests of a run: their bodies, and the thread that makes them before they are needed."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fovea.bench.images import ImageSource

__all__ = ["BodyQueue", "Question"]


@dataclass(frozen=True)
class Question:
    """What every request asks.

    Args:
        prompt: text after the images.
        images: source of the images.
        images_per_request: number of images in front of the text.
        max_tokens: longest answer in tokens.
        extra_body: further fields of the body, which replace those of the same name.
    """

    prompt: str
    images: ImageSource
    images_per_request: int = 1
    max_tokens: int = 128
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    def body(self, model: str, request: int) -> bytes:
        """Body of a request.

        Args:
            model: name of the model.
            request: number of the request among those of its model.

        Raises:
            OSError: an image cannot be read.
        """
        urls = self.images.data_urls(request, self.images_per_request)
        content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        body = {
            "model": model,
            "messages": [{"role": "user", "content": [*content, {"type": "text", "text": self.prompt}]}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra_body,
        }
        return json.dumps(body).encode()


class BodyQueue:
    """Bodies that a thread makes ahead, so that a client that is free sends its next request at once.

    Args:
        make: function that makes the body of a number; called in the thread.
        first: first number.
        total: number of bodies; None for no end.
        ahead: most bodies that lie ready.
    """

    def __init__(self, make: Callable[[int], bytes], *, first: int, total: int | None, ahead: int) -> None:
        self._make = make
        self._numbers = itertools.count(first) if total is None else iter(range(first, first + total))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bodies")
        self._bodies = deque[Future[bytes]]()
        for _ in range(ahead if total is None else min(ahead, total)):
            self._order_next()

    def _order_next(self) -> None:
        number = next(self._numbers, None)
        if number is not None:
            self._bodies.append(self._thread.submit(self._make, number))

    async def fill(self) -> None:
        """Waits until the bodies that lie ready are made.

        Raises:
            OSError: an image cannot be read.
        """
        await asyncio.gather(*map(asyncio.wrap_future, self._bodies))

    async def next(self) -> bytes | None:
        """Next body; None after the last one.

        Raises:
            OSError: an image cannot be read.
        """
        if not self._bodies:
            return None
        body = self._bodies.popleft()
        self._order_next()
        return await asyncio.wrap_future(body)

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(cancel_futures=True)
