"""Load of `benchmarks.speed.stalls`: streams that decode without a pause, and long prompts that arrive periodically.

Times are taken where answers are read. Requests go to the `LLMEngine` interface, without sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.checkpoints import engine_model
from llm_service.engine.base import Delta, GenerationRequest, LLMEngine
from llm_service.prompts import Prompt, VisualTokens
from llm_service.sampling import SamplingParams

__all__ = ["Load", "Observations", "Prompts", "run"]

_NUM_WORD_IDS: Final = 200
_DEADLINE_S: Final = 3600.0  # longer than any run


@dataclass(frozen=True)
class Load:
    """Numbers of one run.

    Attributes:
        streams: Number of streams, each of which sends its next request after an answer.
        prompt: Number of tokens of a stream's prompt.
        answer: Number of tokens of a stream's answer.
        images: Number of images of a long prompt, each of 576 visual tokens.
        words: Number of text tokens of a long prompt.
        long_prompts: Number of long prompts; the streams end with the answer to the last one.
        period_s: Time between the arrivals of two long prompts, in seconds.
    """

    streams: int
    prompt: int
    answer: int
    images: int
    words: int
    long_prompts: int
    period_s: float

    @property
    def long_prompt_tokens(self) -> int:
        """Number of tokens of a long prompt."""
        return self.images * int(np.prod(engine_model.GRID)) + self.words


@dataclass
class Observations:
    """Times at the readers of one run, in seconds.

    Attributes:
        gaps: Time between two consecutive tokens of a stream's answer.
        stream_ttfts: TTFT of the requests of the streams.
        long_ttfts: TTFT of the long prompts.
        duration: Time from the first request to the last answer to a long prompt.
    """

    gaps: list[float] = field(default_factory=list)
    stream_ttfts: list[float] = field(default_factory=list)
    long_ttfts: list[float] = field(default_factory=list)
    duration: float = 0.0

    def summary(self) -> dict[str, Any]:
        """The figures of a round, as a result file holds them."""
        tpot_p50, tpot_p99 = _percentiles_ms(self.gaps)
        stream_p50, stream_p99 = _percentiles_ms(self.stream_ttfts)
        long_p50, long_p99 = _percentiles_ms(self.long_ttfts)
        return {
            "tokens": len(self.gaps) + len(self.stream_ttfts),
            "tokens_per_s": round((len(self.gaps) + len(self.stream_ttfts)) / self.duration, 2),
            "tpot_p50_ms": tpot_p50,
            "tpot_p99_ms": tpot_p99,
            "longest_gap_ms": round(1e3 * max(self.gaps), 3),
            "stream_requests": len(self.stream_ttfts),
            "stream_ttft_p50_ms": stream_p50,
            "stream_ttft_p99_ms": stream_p99,
            "long_ttft_p50_ms": long_p50,
            "long_ttft_p99_ms": long_p99,
            "long_ttfts_ms": [round(1e3 * ttft, 3) for ttft in self.long_ttfts],
        }


def _percentiles_ms(seconds: list[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    p50, p99 = (round(1e3 * float(value), 3) for value in np.percentile(seconds, [50, 99]))
    return p50, p99


class Prompts:
    """Prompts of random words; each long prompt has images of its own.

    Args:
        image_token_id: Id of the placeholder of an image; the ids after it are words.
        seed: Seed of words and images.
    """

    def __init__(self, image_token_id: int, seed: int) -> None:
        self._image_token_id = image_token_id
        self._random = np.random.default_rng(seed)

    def short(self, num_words: int) -> Prompt:
        """A prompt of text."""
        return Prompt(self._words(num_words), ())

    def long(self, num_images: int, num_words: int) -> Prompt:
        """A prompt of images and text."""
        num_patches = int(np.prod(engine_model.GRID))
        images = tuple(
            VisualTokens(
                self._random.standard_normal((num_patches, engine_model.VISUAL_WIDTH), dtype=np.float32),
                np.arange(num_patches),
                engine_model.GRID,
            )
            for _ in range(num_images)
        )
        placeholders = np.full(num_images, self._image_token_id, dtype=np.int64)
        return Prompt(np.concatenate([placeholders, self._words(num_words)]), images)

    def _words(self, count: int) -> npt.NDArray[np.int64]:
        first = self._image_token_id + 1
        return self._random.integers(first, first + _NUM_WORD_IDS, count)


async def run(engine: LLMEngine, load: Load, prompts: Prompts) -> Observations:
    """Runs a load on an engine that has started and has no other requests.

    The first long prompt arrives a period after all streams have two tokens. After the last answer to a long prompt the
    streams read their answers to the end, which are no longer observed.

    Raises:
        ExceptionGroup: The engine has refused or failed a request, or a token came without text, so that its time is
            not known.
    """
    return await _Run(engine, load, prompts).observe()


class _Run:
    """One run of a load; see `run`."""

    def __init__(self, engine: LLMEngine, load: Load, prompts: Prompts) -> None:
        self._engine = engine
        self._load = load
        self._prompts = prompts
        # Made beforehand, so that no stream waits for random numbers.
        self._long_prompts = [prompts.long(load.images, load.words) for _ in range(load.long_prompts)]
        self._observed = Observations()
        self._decoding = asyncio.Semaphore(0)  # streams that have two tokens
        self._ended = False

    async def observe(self) -> Observations:
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(self._load.streams):
                group.create_task(self._stream(number))
            for _ in range(self._load.streams):
                await self._decoding.acquire()
            await self._send_long_prompts()
            self._observed.duration = time.perf_counter() - start
            self._ended = True
        return self._observed

    async def _stream(self, number: int) -> None:
        """Reads one answer after the other. First answers differ in length, so that later prompts come one by one."""
        max_tokens = max(2, self._load.answer * (number + 1) // self._load.streams)
        first_answer = True
        while not self._ended:
            token = 0
            async for seconds in self._times_to_tokens(self._prompts.short(self._load.prompt), max_tokens):
                if not self._ended:
                    (self._observed.gaps if token else self._observed.stream_ttfts).append(seconds)
                token += 1
                if first_answer and token == 2:
                    self._decoding.release()
            max_tokens, first_answer = self._load.answer, False

    async def _send_long_prompts(self) -> None:
        """Sends a long prompt in each period, whether or not the former one has its answer, and reads all answers."""
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, prompt in enumerate(self._long_prompts, 1):
                await asyncio.sleep(start + number * self._load.period_s - time.perf_counter())
                group.create_task(self._long_prompt(prompt))

    async def _long_prompt(self, prompt: Prompt) -> None:
        async for seconds in self._times_to_tokens(prompt, 1):
            self._observed.long_ttfts.append(seconds)

    async def _times_to_tokens(self, prompt: Prompt, max_tokens: int) -> AsyncIterator[float]:
        """Seconds to each token of an answer: to the first from the request, to the others from the token before."""
        before, num_deltas = time.perf_counter(), 0
        request = GenerationRequest(prompt, SamplingParams(max_tokens), time.monotonic() + _DEADLINE_S)
        async for event in self._engine.submit(request):
            now = time.perf_counter()
            if isinstance(event, Delta):
                num_deltas += 1
                yield now - before
                before = now
            elif event.completion_tokens != num_deltas:
                raise RuntimeError(f"{event.completion_tokens} tokens came in {num_deltas} deltas")
