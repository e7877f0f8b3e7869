"""Clients of a gateway: a closed loop, where each asks again once it has its answer, or arrivals at given times."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import httpx
import numpy as np
from PIL import Image

__all__ = ["Load", "RequestShape", "closed_loop", "open_loop", "pictures"]

_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class RequestShape:
    """What the requests say.

    Attributes:
        pictures: Of one question.
        max_tokens: Of the answers, one after the other, over and over.
    """

    pictures: int
    max_tokens: tuple[int, ...]


@dataclass(frozen=True)
class Load:
    """What came of some load in a window of time.

    Attributes:
        window_s: Its length.
        finished: Answers that ended in it.
        seconds: [finished] from request to answer.
    """

    window_s: float
    finished: int
    seconds: Sequence[float]

    @property
    def per_second(self) -> float:
        """Answers."""
        return self.finished / self.window_s


def pictures(count: int, *, size: tuple[int, int] = (480, 360), seed: int = 0) -> list[bytes]:
    """JPEG files of coarse coloured noise, all different; `size` is width and height."""
    rng = np.random.default_rng(seed)
    files = []
    for _ in range(count):
        noise = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        file = io.BytesIO()
        noise.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


class _Clients:
    """Asks, and notes what ended when."""

    def __init__(self, http: httpx.AsyncClient, asked: RequestShape, files: Iterable[bytes]) -> None:
        self._http = http
        self._asked = asked
        self._files: Iterator[bytes] = itertools.cycle(files)
        self._max_tokens = itertools.cycle(asked.max_tokens)
        self.ended: list[tuple[float, float]] = []  # moment and duration

    async def ask(self) -> None:
        """One question.

        Raises:
            RuntimeError: It was not answered at full length.
        """
        loop = asyncio.get_running_loop()
        start, max_tokens = loop.time(), next(self._max_tokens)
        form = {
            "question": "what colour is it?",
            "cache": "bypass",
            "max_tokens": str(max_tokens),
            "timeout_s": str(_TIMEOUT_S),
        }
        name = "image" if self._asked.pictures == 1 else "images"
        files = [(name, ("picture.jpg", next(self._files))) for _ in range(self._asked.pictures)]
        response = await self._http.post("/v1/answer", data=form, files=files)
        if response.status_code != httpx.codes.OK:
            raise RuntimeError(f"no answer but {response.status_code}: {response.text}")
        if response.json()["usage"]["completion_tokens"] != max_tokens:
            raise RuntimeError(f"an answer ended early: {response.text}")
        self.ended.append((loop.time(), loop.time() - start))

    def load(self, since: float, until: float) -> Load:
        """What ended in a window."""
        seconds = [duration for moment, duration in self.ended if since <= moment < until]
        return Load(until - since, len(seconds), seconds)


async def closed_loop(
    url: str, asked: RequestShape, files: Iterable[bytes], *, clients: int, warm_up_s: float, window_s: float
) -> Load:
    """`clients` at once, until the window that follows the warm-up is over; what is under way then is cancelled."""

    async def ask_on() -> None:
        while True:
            await crowd.ask()

    async with _http(url) as http:
        crowd = _Clients(http, asked, files)
        start = asyncio.get_running_loop().time()
        tasks = [asyncio.create_task(ask_on()) for _ in range(clients)]
        done, _ = await asyncio.wait(tasks, timeout=warm_up_s + window_s, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
        return crowd.load(start + warm_up_s, start + warm_up_s + window_s)


async def open_loop(url: str, asked: RequestShape, files: Iterable[bytes], *, arrivals: Sequence[float]) -> Load:
    """A request at each of these moments, in seconds, whatever became of the others; waits for all."""

    async def ask_at(moment: float) -> None:
        await asyncio.sleep(max(start + moment - loop.time(), 0))
        await crowd.ask()

    async with _http(url) as http:
        crowd = _Clients(http, asked, files)
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.gather(*(ask_at(moment) for moment in arrivals))
        return crowd.load(start, loop.time() + 1e-3)


def _http(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, limits=limits, trust_env=False)
