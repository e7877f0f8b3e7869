"""Messages that would stop a service, with memory and health of the real process while it handles them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf.internal.encoder import _VarintBytes
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fovea.processes.stack import Stack
from fovea.v1 import llm_pb2, llm_pb2_grpc, tensor_pb2
from fovea.wire.tensors import to_message
from tests.e2e.conftest import Client

GENERATE, ENCODE = "/fovea.v1.LLMService/Generate", "/fovea.v1.EncoderService/Encode"
MiB = 2**20
TIMEOUT_S = 120.0
# Far above the time of a check on a busy machine, far below the seconds for which a process once did not answer.
HEALTH_S = 2.0
# gRPC holds the message twice while it hands it over: 100 MiB for 50 MB. As objects it was 1,100 to 2,200.
MAX_GROWTH_MIB = 250


def delimited(number: int, body: bytes) -> bytes:
    return _VarintBytes(number << 3 | 2) + _VarintBytes(len(body)) + body


@dataclass
class Process:
    """A running service."""

    pid: int
    target: str

    def memory_mib(self, name: str) -> int:
        """VmRSS, the memory in use, or VmHWM, its peak since `forget_peak`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name)) // 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@pytest.fixture
def processes(stack: Stack) -> dict[str, Process]:
    return {
        GENERATE: Process(stack.processes["llm_service"].pid, stack.llm_address),
        ENCODE: Process(stack.processes["encoder_service"].pid, stack.encoder_address),
    }


@asynccontextmanager
async def watched(process: Process) -> AsyncIterator[list[float]]:
    """Health is asked again and again from another connection; the list grows by one with each answer in time."""
    answered: list[float] = []
    stopping = asyncio.Event()

    async def ask() -> None:
        async with grpc.aio.insecure_channel(process.target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while not stopping.is_set():
                reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=HEALTH_S)
                assert reply.status == health_pb2.HealthCheckResponse.SERVING
                answered.append(asyncio.get_running_loop().time())

    asking = asyncio.create_task(ask())
    while not answered:  # noqa: ASYNC110
        await asyncio.sleep(0)
    yield answered
    before = len(answered)
    while len(answered) < before + 2 and not asking.done():  # noqa: ASYNC110
        await asyncio.sleep(0)
    stopping.set()
    await asking


async def refusal(process: Process, method: str, data: bytes, **options: Any) -> grpc.aio.AioRpcError:
    limits = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(process.target, options=limits) as channel:
        call = channel.unary_stream(method) if method == GENERATE else channel.unary_unary(method)
        under_way = call(data, timeout=TIMEOUT_S, **options)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await (under_way.read() if method == GENERATE else under_way)
    return caught.value


@pytest.mark.parametrize(
    ("method", "data"),
    [
        (GENERATE, b"\x12\x00" * 25_000_000),
        (GENERATE, delimited(3, b"\x08\x01" + b"\x2a\x00" * 25_000_000)),
        (GENERATE, delimited(1, b"\1" * 50_000_000)),
        (GENERATE, b"\x78\x01" * 25_000_000),
        (GENERATE, delimited(5, delimited(2, b"\x0a\x05\x0a\x01a\x12\x00" * 7_000_000))),
        (ENCODE, b"\x0a\x00" * 25_000_000),
        (ENCODE, delimited(2, b"\1" * 50_000_000)),
        (ENCODE, delimited(9, delimited(2, b"\x0a\x00" * 25_000_000))),
    ],
    ids=["visual tokens", "stop strings", "ids", "unknown", "parameters", "images", "text ids", "frames"],
)
async def test_fifty_megabytes_of_tiny_elements(processes: dict[str, Process], method: str, data: bytes) -> None:
    process = processes[method]
    process.forget_peak()
    before = process.memory_mib("VmRSS")
    async with watched(process) as answered:
        error = await refusal(process, method, data)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(answered) >= 3
    assert process.memory_mib("VmHWM") - before < MAX_GROWTH_MIB
    assert process.memory_mib("VmRSS") - before < MAX_GROWTH_MIB / 2


async def test_several_at_once_are_bounded_together(processes: dict[str, Process]) -> None:
    process, data = processes[GENERATE], b"\x12\x00" * 25_000_000
    process.forget_peak()
    before = process.memory_mib("VmRSS")
    async with watched(process) as answered:
        errors = await asyncio.gather(*(refusal(process, GENERATE, data) for _ in range(4)))
    assert {error.code() for error in errors} <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert len(answered) >= 3
    assert process.memory_mib("VmHWM") - before < 4 * MAX_GROWTH_MIB


async def test_a_message_that_inflates_a_thousandfold(processes: dict[str, Process]) -> None:
    """200 kB on the wire, 200 MB inflated."""
    process = processes[GENERATE]
    process.forget_peak()
    before = process.memory_mib("VmRSS")
    data = delimited(15, bytes(200_000_000))
    error = await refusal(process, GENERATE, data, compression=grpc.Compression.Gzip)
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert process.memory_mib("VmHWM") - before < 100


@pytest.mark.parametrize("method", [GENERATE, ENCODE])
async def test_noise_leaves_no_traceback_in_the_log(
    processes: dict[str, Process], stack: Stack, method: str, client: Client, picture: bytes
) -> None:
    assert stack.log_to is not None
    start = len(stack.log_to.read_bytes())
    for _ in range(20):
        error = await refusal(processes[method], method, b"\xff" * 12)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    written = stack.log_to.read_bytes()[start:].decode()
    assert "Traceback" not in written
    assert written.count("\n") <= 20
    assert client.ask(picture, "Is there a circle?")["answer"]


async def describe(stub: llm_pb2_grpc.LLMServiceStub) -> tuple[llm_pb2.GetLLMInfoResponse, tensor_pb2.VisualTokens]:
    """The description of the LLM service, and visual tokens that it accepts."""
    info = await stub.GetModelInfo(llm_pb2.GetLLMInfoRequest(), timeout=TIMEOUT_S)
    features = np.random.default_rng(0).standard_normal((8, info.visual_hidden_size), dtype=np.float32)
    return info, tensor_pb2.VisualTokens(
        features=to_message(features, tensor_pb2.DTYPE_FLOAT16),
        positions=range(8),
        grid=tensor_pb2.Grid(frames=1, rows=12, columns=12),
        fingerprint=info.fingerprint,
    )


def question(
    info: llm_pb2.GetLLMInfoResponse, tokens: tensor_pb2.VisualTokens, grid: tensor_pb2.Grid | None = None
) -> llm_pb2.GenerateRequest:
    """A request that is prefilled layer by layer, in which visual tokens are put on their grid."""
    request = llm_pb2.GenerateRequest(
        input_ids=[1, info.image_token_id, 5, 6, 7],
        visual_tokens=[tokens],
        sampling=llm_pb2.SamplingParams(max_tokens=4),
        llm_pruner=llm_pb2.LlmPruner(name="adaptprune", keep_tokens=4),
    )
    if grid is not None:
        request.visual_tokens[0].grid.CopyFrom(grid)
    return request


@pytest.mark.parametrize(
    "grid",
    [
        tensor_pb2.Grid(frames=40_000_000, rows=12, columns=12),
        tensor_pb2.Grid(frames=2**32 - 1, rows=2**32 - 1, columns=2**32 - 1),
        tensor_pb2.Grid(frames=1, rows=40_000_000, columns=1),
        tensor_pb2.Grid(frames=1, rows=1, columns=40_000_000),
        tensor_pb2.Grid(frames=1, rows=12, columns=12, cls_per_frame=2**32 - 1),
    ],
    ids=["frames", "all", "rows", "columns", "cls rows"],
)
async def test_a_grid_of_any_size_takes_no_memory_and_fails_alone(
    processes: dict[str, Process], grid: tensor_pb2.Grid
) -> None:
    process = processes[GENERATE]
    async with grpc.aio.insecure_channel(process.target) as channel:
        stub = llm_pb2_grpc.LLMServiceStub(channel)
        info, tokens = await describe(stub)

        async def answer(request: llm_pb2.GenerateRequest) -> list[int]:
            *_, last = [event async for event in stub.Generate(request, timeout=TIMEOUT_S)]
            return list(last.done.token_ids)

        sound = question(info, tokens)
        alone = await answer(sound)
        process.forget_peak()
        before = process.memory_mib("VmRSS")
        async with watched(process) as answered:
            mates = [asyncio.create_task(answer(sound)) for _ in range(3)]
            error = await refusal(process, GENERATE, question(info, tokens, grid).SerializeToString())
            assert await asyncio.gather(*mates) == [alone] * 3
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "grid" in (error.details() or "")
    assert len(answered) >= 3
    assert process.memory_mib("VmHWM") - before < 100
