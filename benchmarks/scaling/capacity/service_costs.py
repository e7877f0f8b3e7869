"""Costs of the running services: CPU time of their processes for requests of each kind, one after the other."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.scaling.capacity.model_costs import KEEP_RATIO, PRUNER
from benchmarks.scaling.clients import RequestShape, open_loop
from benchmarks.scaling.cpu_caps import cpu_seconds
from benchmarks.scaling.deployment import FLAGS
from fovea.budget import Budget
from fovea.processes.stack import Stack, free_port
from gateway.clients.encoder import EncoderClient, EncodeResult
from gateway.clients.llm import GenerateDone, LLMClient
from gateway.core.encode_spec import EncodeSpec
from gateway.core.generate_spec import GenerateSpec, Sampling
from gateway.media.files import MediaFile
from gateway.tokenization.tokenizers import PromptTokenizer, TextTowerTokenizer

__all__ = ["FLOW", "FLOW_CLIENTS", "LONG_ANSWER", "MANY_SEQUENCES", "ServiceCosts", "service_costs"]

LONG_ANSWER: Final = 41
MANY_SEQUENCES: Final = 4
FLOW: Final = (20, 30, 50) * 5  # tokens of answers that join and leave a full batch at different times
FLOW_CLIENTS: Final = 8
_QUESTION: Final = "what colour is it?"
_STARTUP_S: Final = 240.0
_TIMEOUT_S: Final = 120.0
_SETTLE_S: Final = 0.05
_MESSAGE_BYTES: Final = 64 * 2**20


@dataclass(frozen=True)
class ServiceCosts:
    """Costs of requests to the running services.

    Attributes:
        seconds: CPU seconds of the service that a kind of request is for, by kind.
        prompt_tokens: Tokens of the prompt of a question about one image.
        visual_tokens: Visual tokens in it.
        wire_bytes: Bytes of these visual tokens.
    """

    seconds: Mapping[str, float]
    prompt_tokens: int
    visual_tokens: int
    wire_bytes: int


class _Requests:
    """Requests of all kinds to the running services.

    Args:
        stack: The running services.
        model: LLaVA checkpoint.
        text_tower: CLIP checkpoint.
        files: Image files, used in turns.
    """

    def __init__(self, stack: Stack, model: Path, text_tower: Path, files: Sequence[bytes]) -> None:
        self._url = stack.url
        self._encoder = EncoderClient(stack.encoder_address, max_message_bytes=_MESSAGE_BYTES)
        self._llm = LLMClient(stack.llm_address, max_message_bytes=_MESSAGE_BYTES)
        self._text_ids = TextTowerTokenizer(text_tower).encode(_QUESTION)
        self._input_ids = PromptTokenizer(model).encode(_QUESTION, num_images=1)
        self._images = itertools.cycle(files)

    async def close(self) -> None:
        """Closes the connections."""
        await asyncio.gather(self._encoder.close(), self._llm.close())

    async def encode(self, count: int) -> EncodeResult:
        """Encodes a question about some images."""
        spec = EncodeSpec(
            images=tuple(MediaFile.of(next(self._images)) for _ in range(count)),
            text_ids=tuple(self._text_ids),
            pruner=PRUNER,
            budget=Budget.ratio(KEEP_RATIO),
            wire_dtype="float16",
        )
        return await self._encoder.encode(spec, None, _TIMEOUT_S)

    async def generate(self, encoded: EncodeResult, tokens: int, extra_tokens: int = 0) -> GenerateDone:
        """Generates an answer of some tokens; the prompt is longer by `extra_tokens`."""
        input_ids = (*self._input_ids, *self._input_ids[-1:] * extra_tokens)
        spec = GenerateSpec(input_ids=input_ids, sampling=Sampling(max_tokens=tokens, temperature=0))
        async for event in self._llm.generate(spec, encoded, _TIMEOUT_S):
            if isinstance(event, GenerateDone):
                return event
        raise RuntimeError("the answer has no last event")

    async def generate_many(self, encoded: EncodeResult, count: int, tokens: int) -> None:
        """Generates answers at once; the prompts differ in length, so that the batch is padded."""
        await asyncio.gather(*(self.generate(encoded, tokens, extra) for extra in range(count)))

    async def generate_flow(self, encoded: EncodeResult) -> None:
        """Generates the answers of FLOW with several clients."""
        lengths = iter(FLOW)

        async def client() -> None:
            for tokens in lengths:
                await self.generate(encoded, tokens)

        await asyncio.gather(*(client() for _ in range(FLOW_CLIENTS)))

    async def ask(self, images: int, tokens: int) -> None:
        """Asks the gateway a question."""
        request = RequestShape(images, (tokens,))
        await open_loop(self._url, request, [next(self._images) for _ in range(images)], arrivals=[0.0])


def _kinds(requests: _Requests, encoded: EncodeResult) -> dict[str, tuple[str, Callable[[], Awaitable[object]]]]:
    """Kinds of requests: the service that each is for, and the function that sends it."""

    def sequences(count: int, tokens: int) -> Callable[[], Awaitable[object]]:
        return lambda: requests.generate_many(encoded, count, tokens)

    return {
        "one image": ("encoder_service", lambda: requests.encode(1)),
        "two images": ("encoder_service", lambda: requests.encode(2)),
        "four images": ("encoder_service", lambda: requests.encode(4)),
        "one sequence": ("llm_service", sequences(1, 1)),
        "one long sequence": ("llm_service", sequences(1, LONG_ANSWER)),
        "many sequences": ("llm_service", sequences(MANY_SEQUENCES, 1)),
        "many long sequences": ("llm_service", sequences(MANY_SEQUENCES, LONG_ANSWER)),
        "a flow of answers": ("llm_service", lambda: requests.generate_flow(encoded)),
        "request": ("gateway", lambda: requests.ask(1, 1)),
        "request of two images": ("gateway", lambda: requests.ask(2, 1)),
        "request of a long answer": ("gateway", lambda: requests.ask(1, LONG_ANSWER)),
    }


async def _measure(stack: Stack, requests: _Requests, rounds: int) -> ServiceCosts:
    """CPU seconds of the running services for each kind of request; medians over the rounds."""
    encoded = await requests.encode(1)
    kinds = _kinds(requests, encoded)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds + 1):
        for kind, (service, send) in kinds.items():
            pid = stack.processes[service].pid
            before = cpu_seconds(pid)
            await send()
            await asyncio.sleep(_SETTLE_S)  # work after the reply belongs to the request
            if number:  # the first round warms up
                seconds[kind].append(cpu_seconds(pid) - before)
    prompt_tokens = (await requests.generate(encoded, 1)).prompt_tokens
    await requests.close()
    return ServiceCosts(
        {kind: statistics.median(values) for kind, values in seconds.items()},
        prompt_tokens,
        encoded.num_tokens_kept,
        encoded.wire_bytes,
    )


def service_costs(model: Path, text_tower: Path, files: Sequence[bytes], rounds: int, log: Path) -> ServiceCosts:
    """Starts the three services, measures, and stops them.

    Args:
        model: LLaVA checkpoint.
        text_tower: CLIP checkpoint.
        files: Image files, used in turns.
        rounds: Number of measurements of each kind of request.
        log: File of the services' logs.
    """
    stack = Stack(
        str(model),
        str(text_tower),
        listen=f"127.0.0.1:{free_port()}",
        flags=FLAGS,
        environment={"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        log_to=log,
    )

    async def measure() -> ServiceCosts:  # the clients need a running loop
        return await _measure(stack, _Requests(stack, model, text_tower, files), rounds)

    with stack:
        stack.wait_ready(_STARTUP_S)
        return asyncio.run(measure())
