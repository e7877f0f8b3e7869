"""Clients of a gateway: a closed loop, where each sends its next request after an answer, or given arrival times."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from benchmarks.harness.images import jpeg, noise_image
from benchmarks.harness.pruning import PRUNING

__all__ = ["Load", "RequestShape", "closed_loop", "jpeg_files", "open_loop"]

_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class RequestShape:
    """Size of the requests and of their answers.

    Attributes:
        images: Images of each question.
        max_tokens: Tokens of the answers, in turns.
    """

    images: int
    max_tokens: tuple[int, ...]


@dataclass(frozen=True)
class Load:
    """Answers in a window of time.

    Attributes:
        window_s: Length of the window.
        finished: Answers that ended in it.
        seconds: [finished] seconds from request to answer.
    """

    window_s: float
    finished: int
    seconds: Sequence[float]

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.finished / self.window_s


def jpeg_files(count: int, *, size: tuple[int, int] = (480, 360), seed: int = 0) -> list[bytes]:
    """JPEG files of coarse coloured noise, all different; `size` is width and height in pixels."""
    rng = np.random.default_rng(seed)
    return [jpeg(noise_image(size, rng, coarse=(12, 16)), 90) for _ in range(count)]


class _Clients:
    """Sends requests, and records when their answers ended."""

    def __init__(self, http: httpx.AsyncClient, request: RequestShape, files: Iterable[bytes]) -> None:
        self._http = http
        self._request = request
        self._files: Iterator[bytes] = itertools.cycle(files)
        self._max_tokens = itertools.cycle(request.max_tokens)
        self.finished: list[tuple[float, float]] = []  # time of the end, and duration

    async def send(self) -> None:
        """Sends one request, and waits for its answer.

        Raises:
            RuntimeError: The gateway refused the request, or the answer is shorter than asked for.
        """
        loop = asyncio.get_running_loop()
        start, max_tokens = loop.time(), next(self._max_tokens)
        form = {
            "question": "what colour is it?",
            "cache": "bypass",
            "max_tokens": str(max_tokens),
            "timeout_s": str(_TIMEOUT_S),
            **PRUNING,
        }
        name = "image" if self._request.images == 1 else "images"
        files = [(name, ("image.jpg", next(self._files))) for _ in range(self._request.images)]
        response = await self._http.post("/v1/answer", data=form, files=files)
        if response.status_code != httpx.codes.OK:
            raise RuntimeError(f"the gateway replied {response.status_code}: {response.text}")
        if response.json()["usage"]["completion_tokens"] != max_tokens:
            raise RuntimeError(f"an answer ended early: {response.text}")
        self.finished.append((loop.time(), loop.time() - start))

    def load(self, since: float, until: float) -> Load:
        """The load in a window."""
        seconds = [duration for end, duration in self.finished if since <= end < until]
        return Load(until - since, len(seconds), seconds)


async def closed_loop(
    url: str, request: RequestShape, files: Iterable[bytes], *, clients: int, warm_up_s: float, window_s: float
) -> Load:
    """The load of some clients in the window after a warm-up; requests that run at its end are cancelled."""

    async def send_requests() -> None:
        while True:
            await senders.send()

    async with _http(url) as http:
        senders = _Clients(http, request, files)
        start = asyncio.get_running_loop().time()
        tasks = [asyncio.create_task(send_requests()) for _ in range(clients)]
        done, _ = await asyncio.wait(tasks, timeout=warm_up_s + window_s, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
        return senders.load(start + warm_up_s, start + warm_up_s + window_s)


async def open_loop(url: str, request: RequestShape, files: Iterable[bytes], *, arrivals: Sequence[float]) -> Load:
    """The load of requests at given times, in seconds from the start, independent of answers; waits for all answers."""

    async def send_at(arrival: float) -> None:
        await asyncio.sleep(max(start + arrival - loop.time(), 0))
        await senders.send()

    async with _http(url) as http:
        senders = _Clients(http, request, files)
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.gather(*(send_at(arrival) for arrival in arrivals))
        return senders.load(start, loop.time() + 1e-3)


def _http(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, limits=limits, trust_env=False)
