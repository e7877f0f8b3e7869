"""Costs of the running services: CPU time of their processes for one request of each kind after the other."""

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
from fovea.processes.stack import Stack, free_port
from gateway.clients.encoder import EncodeArgs, EncoderClient, EncodeResult
from gateway.clients.llm import GenerateDone, LLMClient, Sampling
from gateway.tokenizers import PromptTokenizer, TextTowerTokenizer

__all__ = ["FLOW", "FLOW_CLIENTS", "LONG_ANSWER", "MANY_ROWS", "ServiceCosts", "service_costs"]

LONG_ANSWER: Final = 41
MANY_ROWS: Final = 4
FLOW: Final = (20, 30, 50) * 5  # tokens of answers that join and leave a full batch at different times
FLOW_CLIENTS: Final = 8
_QUESTION: Final = "what colour is it?"
_STARTUP_S: Final = 240.0
_TIMEOUT_S: Final = 120.0
_SETTLE_S: Final = 0.05
_MESSAGE_BYTES: Final = 64 * 2**20


@dataclass(frozen=True)
class ServiceCosts:
    """What the running services took.

    Attributes:
        seconds: CPU seconds of the service that does most for a kind of request.
        prompt_tokens: Of a question about one picture.
        visual_tokens: In it.
        wire_bytes: Of these.
    """

    seconds: Mapping[str, float]
    prompt_tokens: int
    visual_tokens: int
    wire_bytes: int


async def _measure(stack: Stack, model: Path, text_tower: Path, files: Sequence[bytes], rounds: int) -> ServiceCosts:
    """CPU seconds of the running services for one request of each kind, or for several at once; medians over rounds."""
    encoder = EncoderClient(stack.encoder_address, max_message_bytes=_MESSAGE_BYTES)
    llm = LLMClient(stack.llm_address, max_message_bytes=_MESSAGE_BYTES)
    text_ids = TextTowerTokenizer(text_tower).encode(_QUESTION)
    input_ids = PromptTokenizer(model).encode(_QUESTION, num_images=1)
    picture = itertools.cycle(files)

    async def encode(count: int) -> EncodeResult:
        some = [next(picture) for _ in range(count)]
        call = EncodeArgs(some, text_ids, PRUNER, {}, None, KEEP_RATIO, "float16", False)
        return await encoder.encode(call, _TIMEOUT_S)

    encoded = await encode(1)

    async def generate(tokens: int, longer: int = 0) -> GenerateDone:
        ids = [*input_ids, *input_ids[-1:] * longer]
        async for event in llm.generate(ids, encoded, Sampling(tokens, 0.0, 1.0, None, ()), _TIMEOUT_S):
            if isinstance(event, GenerateDone):
                return event
        raise RuntimeError("an answer without an end")

    async def rows(count: int, tokens: int) -> None:  # of different lengths: those of a batch are padded
        await asyncio.gather(*(generate(tokens, longer) for longer in range(count)))

    async def flow() -> None:
        lengths = iter(FLOW)

        async def client() -> None:
            for tokens in lengths:
                await generate(tokens)

        await asyncio.gather(*(client() for _ in range(FLOW_CLIENTS)))

    async def ask(asked: RequestShape) -> None:
        await open_loop(stack.url, asked, [next(picture) for _ in range(asked.pictures)], arrivals=[0.0])

    kinds: dict[str, tuple[str, Callable[[], Awaitable[object]]]] = {
        "one picture": ("encoder_service", lambda: encode(1)),
        "two pictures": ("encoder_service", lambda: encode(2)),
        "four pictures": ("encoder_service", lambda: encode(4)),
        "one row": ("llm_service", lambda: rows(1, 1)),
        "one long row": ("llm_service", lambda: rows(1, LONG_ANSWER)),
        "many rows": ("llm_service", lambda: rows(MANY_ROWS, 1)),
        "many long rows": ("llm_service", lambda: rows(MANY_ROWS, LONG_ANSWER)),
        "a flow of answers": ("llm_service", flow),
        "request": ("gateway", lambda: ask(RequestShape(1, (1,)))),
        "request of two pictures": ("gateway", lambda: ask(RequestShape(2, (1,)))),
        "request of a long answer": ("gateway", lambda: ask(RequestShape(1, (LONG_ANSWER,)))),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds + 1):
        for kind, (service, action) in kinds.items():
            pid = stack.processes[service].pid
            before = cpu_seconds(pid)
            await action()
            await asyncio.sleep(_SETTLE_S)  # what is done after the reply belongs to the request
            if number:  # the first round warms up
                seconds[kind].append(cpu_seconds(pid) - before)
    prompt_tokens = (await generate(1)).prompt_tokens
    await asyncio.gather(encoder.close(), llm.close())
    return ServiceCosts(
        {kind: statistics.median(values) for kind, values in seconds.items()},
        prompt_tokens,
        encoded.num_tokens_kept,
        encoded.wire_bytes,
    )


def service_costs(model: Path, text_tower: Path, files: Sequence[bytes], rounds: int, log: Path) -> ServiceCosts:
    """Starts the three services, asks, and stops them.

    Args:
        model: LLaVA checkpoint.
        text_tower: CLIP checkpoint.
        files: Pictures, in turns.
        rounds: Of a request of each kind.
        log: File for their logs.
    """
    stack = Stack(
        str(model),
        str(text_tower),
        listen=f"127.0.0.1:{free_port()}",
        flags=FLAGS,
        environment={"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        log_to=log,
    )
    with stack:
        stack.wait_ready(_STARTUP_S)
        return asyncio.run(_measure(stack, model, text_tower, files, rounds))
