"""Media that take forever to decode, sent to the real service over real gRPC.

A file of 300 kB occupies a decoding worker for seconds; the tests then stop that worker for good, so that nothing here
depends on how long it would have taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fovea.processes.stack import free_port
from fovea.rpc.channel import connect
from fovea.v1 import encoder_pb2, encoder_pb2_grpc
from tests.jpeg_scans import progressive

pytestmark = pytest.mark.slow

TIMEOUT_S = 60.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def slow_image() -> bytes:
    """A JPEG file within all limits: 49 megapixels, 300 kB, as many scans as are accepted."""
    return progressive((7000, 7000), mode="RGB", repeat_last_scan=88)


@dataclass
class Service:
    """A running encoder service with its observable state."""

    process: psutil.Process
    stub: encoder_pb2_grpc.EncoderServiceStub
    health_stub: health_pb2_grpc.HealthStub
    metrics_url: str

    async def encode(self, image: bytes) -> encoder_pb2.EncodeResponse:
        request = encoder_pb2.EncodeRequest(images=[image], text_ids=[98, 3, 99])
        response: encoder_pb2.EncodeResponse = await self.stub.Encode(request, timeout=TIMEOUT_S)
        return response

    async def health(self) -> int:
        request = health_pb2.HealthCheckRequest(service="fovea.v1.EncoderService")
        return int((await self.health_stub.Check(request, timeout=TIMEOUT_S)).status)

    async def is_alive(self) -> bool:
        reply = await self.health_stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        return bool(reply.status == SERVING)

    def workers(self) -> set[psutil.Process]:
        """Processes that decode: the children of the server process that forks them."""
        children = self.process.children(recursive=True)
        with contextlib.suppress(psutil.NoSuchProcess):  # one ended just now
            return {child for child in children if child.ppid() != self.process.pid}
        return set()

    async def metric(self, name: str) -> float:
        async with httpx.AsyncClient(trust_env=False) as client:
            lines = (await client.get(self.metrics_url)).text.splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} ")), 0.0)


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Polls until `condition` holds."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.02)  # leaves the cores to the service


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has stopped computing; its parent may not have waited for it yet."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@dataclass
class Started:
    """A process of the encoder service, and its ports on the loopback interface."""

    process: psutil.Process
    port: int
    metrics_port: int


@contextmanager
def started(checkpoints: Any, *flags: str) -> Iterator[Started]:
    """`python -m encoder_service` with two decoding workers."""
    port, metrics_port = free_port(), free_port()
    command = [sys.executable, "-m", "encoder_service", "--model", str(checkpoints.hub)]
    command += ["--text-tower", str(checkpoints.clip), "--device", "cpu", "--decode-workers", "2"]
    command += ["--listen", f"127.0.0.1:{port}", "--metrics-listen", f"127.0.0.1:{metrics_port}", *flags]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        watchdog = threading.Timer(4 * TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            yield Started(psutil.Process(process.pid), port, metrics_port)
        finally:
            watchdog.cancel()
            process.kill()


@asynccontextmanager
async def connected(started: Started) -> AsyncIterator[Service]:
    """The service once it is ready."""
    channel = connect(f"127.0.0.1:{started.port}", max_message_bytes=2**26)
    service = Service(
        started.process,
        encoder_pb2_grpc.EncoderServiceStub(channel),
        health_pb2_grpc.HealthStub(channel),
        f"http://127.0.0.1:{started.metrics_port}/metrics",
    )

    async def is_ready() -> bool:
        try:
            return await service.health() == SERVING
        except grpc.aio.AioRpcError:
            return False

    try:
        await until(is_ready)
        yield service
    finally:
        await channel.close()


@asynccontextmanager
async def running(checkpoints: Any, *flags: str) -> AsyncIterator[Service]:
    """A service for one test."""
    with started(checkpoints, *flags) as process:
        async with connected(process) as service:
            yield service


@pytest.fixture(scope="module")
def patient(checkpoints: Any) -> Iterator[Started]:
    """A service for the tests that leave it running, whose decodes may take forever while its health does not wait."""
    with started(checkpoints, "--image-decode-timeout-s", "600", "--max-decode-wait-s", "0.5") as process:
        yield process


async def occupied(service: Service, image: bytes) -> list[asyncio.Task[Any]]:
    """Two requests whose workers are decoding and will never finish."""
    tasks = [asyncio.create_task(service.encode(image)) for _ in range(2)]
    idle = {worker: worker.cpu_times().user for worker in service.workers()}
    assert len(idle) == 2
    await until(lambda: all(worker.cpu_times().user > before + 0.2 for worker, before in idle.items()))
    for worker in idle:
        worker.suspend()
    return tasks


async def test_a_decode_that_never_ends_is_stopped_by_its_deadline(
    checkpoints: Any, slow_image: bytes, make_image: Callable[..., bytes]
) -> None:
    async with running(checkpoints, "--image-decode-timeout-s", "2") as service:
        first = service.workers()
        tasks = [asyncio.create_task(service.encode(slow_image)) for _ in range(2)]
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, grpc.aio.AioRpcError)
            assert outcome.code() == grpc.StatusCode.OUT_OF_RANGE
            assert "the image takes longer than 2 seconds to decode; a smaller one is" in (outcome.details() or "")
        await until(lambda: all(map(has_ended, first)))
        assert (await service.encode(make_image(0))).visual_tokens
        assert await service.metric("fovea_num_requests_waiting") == 0
        assert await service.metric('fovea_failures_total{kind="worker_timeout"}') == 2


async def test_health_is_not_serving_while_media_wait_for_a_worker_and_an_aborted_request_frees_it(
    patient: Started, slow_image: bytes, make_image: Callable[..., bytes]
) -> None:
    async with connected(patient) as service:
        held, before = service.workers(), service.process.memory_info().rss
        tasks = await occupied(service, slow_image)
        waiting = asyncio.create_task(service.encode(make_image(0)))

        async def is_not_serving() -> bool:
            return await service.health() == NOT_SERVING

        await until(is_not_serving)
        assert await service.is_alive()
        assert not waiting.done()
        assert await service.metric("fovea_num_requests_waiting") == 3
        # The pixels of the images, 147 MB each, are never in the service itself.
        assert service.process.memory_info().rss - before < 64 * 2**20
        for task in tasks:
            task.cancel()
        assert (await waiting).visual_tokens

        async def is_serving() -> bool:
            return await service.health() == SERVING

        await until(is_serving)
        await until(lambda: all(map(has_ended, held)))
        await until(lambda: len(service.workers() - held) == 2)


async def test_sigterm_ends_the_service_in_the_middle_of_decodes_that_never_end(
    checkpoints: Any, slow_image: bytes
) -> None:
    async with running(checkpoints, "--image-decode-timeout-s", "600", "--drain-grace-s", "0.2") as service:
        tasks = await occupied(service, slow_image)
        family = service.process.children(recursive=True)
        service.process.terminate()
        await until(lambda: has_ended(service.process))
        await until(lambda: all(map(has_ended, family)))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {grpc.aio.AioRpcError}


async def test_a_worker_that_crashes_fails_its_own_request_alone(
    patient: Started, slow_image: bytes, make_image: Callable[..., bytes]
) -> None:
    died = 'fovea_failures_total{kind="worker_died"}'
    async with connected(patient) as service:
        died_before = await service.metric(died)
        first, second = await occupied(service, slow_image)
        workers = list(service.workers())
        os.kill(workers[0].pid, signal.SIGSEGV)
        workers[0].resume()
        done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED, timeout=TIMEOUT_S)
        (failed,) = done
        error = failed.exception()
        assert isinstance(error, grpc.aio.AioRpcError)
        assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "the image cannot be decoded")
        assert (await service.encode(make_image(0))).visual_tokens
        assert await service.metric(died) == died_before + 1
        (first if failed is second else second).cancel()
        await until(lambda: all(map(has_ended, workers)))


async def test_workers_end_with_a_service_that_is_killed(checkpoints: Any, slow_image: bytes) -> None:
    async with running(checkpoints, "--image-decode-timeout-s", "600") as service:
        tasks = await occupied(service, slow_image)
        family = service.process.children(recursive=True)
        service.process.kill()
        await until(lambda: all(map(has_ended, family)))
        await asyncio.gather(*tasks, return_exceptions=True)
