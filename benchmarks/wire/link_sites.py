"""The three arrangements of the narrow link: the services at both its ends, and clients at the edge that ask them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from benchmarks.wire.namespaces import CLOUD_ADDRESS, NarrowLink
from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.processes.stack import Stack

__all__ = ["EdgeClient", "cloud_stack", "split_stack"]

_STARTUP_S: Final = 240.0
# Every question costs the vision tower, as a question about a new image does.
_NO_FEATURES: Final = {"encoder_service": ["--feature-cache-bytes", "0"]}


class EdgeClient:
    """A client at the edge.

    Args:
        link: Link to the cloud.
        url: URL of the gateway.
        fields: Fields of every request besides image and question.
    """

    def __init__(self, link: NarrowLink, url: str, fields: dict[str, str]) -> None:
        self._link = link
        self._url = url
        self._fields = {"cache": "bypass", "timeout_s": "300", **fields}

    def measure(self, questions: Sequence[tuple[bytes, str]], concurrency: int) -> dict[str, Any]:
        """Latency and bytes of questions one after the other, then answers per minute of `concurrency` clients."""
        with self._link.at("edge"):
            return asyncio.run(self._measure(questions, concurrency))

    async def _measure(self, questions: Sequence[tuple[bytes, str]], concurrency: int) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=self._url, timeout=310, trust_env=False) as http:
            kept = (await self._ask(http, *questions[0]))["usage"]["visual_tokens_kept"]  # connects, and warms up
            before, seconds = self._link.traffic(), []
            for image, question in questions:
                start = time.perf_counter()
                await self._ask(http, image, question)
                seconds.append(time.perf_counter() - start)
            after = self._link.traffic()
            remaining, start = iter(questions), time.perf_counter()

            async def client() -> None:
                for image, question in remaining:
                    await self._ask(http, image, question)

            await asyncio.gather(*(client() for _ in range(concurrency)))
            minutes = (time.perf_counter() - start) / 60
        return {
            "visual_tokens_kept": kept,
            "p50_ms": round(float(np.percentile(seconds, 50)) * 1000, 1),
            "p95_ms": round(float(np.percentile(seconds, 95)) * 1000, 1),
            "bytes_to_cloud": round((after.to_cloud - before.to_cloud) / len(questions)),
            "bytes_to_edge": round((after.to_edge - before.to_edge) / len(questions)),
            "answers_per_minute": round(len(questions) / minutes, 1),
        }

    async def _ask(self, http: httpx.AsyncClient, image: bytes, question: str) -> dict[str, Any]:
        form = {"question": question, **self._fields}
        response = await http.post("/v1/answer", data=form, files={"image": ("image.jpg", image)})
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer


@contextmanager
def split_stack(link: NarrowLink, log: Path) -> Iterator[Stack]:
    """The LLM service in the cloud, the other two at the edge; their logs go to the file `log`."""
    stack = _stack(log, "127.0.0.1:8000", {"gateway": ["--patience-s", "120"], **_NO_FEATURES})
    stack.llm_address = f"{CLOUD_ADDRESS}:50052"
    try:
        with link.at("cloud"):
            stack.start("llm_service")
        with link.at("edge"):
            stack.start("encoder_service", "gateway")
            stack.wait_ready(_STARTUP_S)
        yield stack
    finally:
        stack.stop()


@contextmanager
def cloud_stack(link: NarrowLink, log: Path) -> Iterator[Stack]:
    """All three services in the cloud; their logs go to the file `log`."""
    stack = _stack(log, f"{CLOUD_ADDRESS}:8000", {"gateway": ["--allow-anonymous"], **_NO_FEATURES})
    try:
        with link.at("cloud"):
            stack.start()
            stack.wait_ready(_STARTUP_S)
        yield stack
    finally:
        stack.stop()


def _stack(log: Path, listen: str, flags: dict[str, list[str]]) -> Stack:
    return Stack(
        str(shipped_checkpoint("llava")),
        str(shipped_checkpoint("clip")),
        listen=listen,
        name="fovea-lab",
        flags=flags,
        environment={"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        log_to=log,
    )
