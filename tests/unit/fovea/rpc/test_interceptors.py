"""Calls with malformed, too many or too slow messages, over a real connection."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from fovea.errors import DeadlineExceeded, InvalidRequest, MalformedRequest, Overloaded, ServiceError, from_rpc_error
from fovea.rpc import interceptors
from fovea.rpc.channel import connect
from fovea.rpc.server import GrpcServer, ServerConfig
from fovea.v1 import encoder_pb2, encoder_pb2_grpc, llm_pb2, llm_pb2_grpc

TIMEOUT_S = 30.0
GENERATE, ENCODE = "/fovea.v1.LLMService/Generate", "/fovea.v1.EncoderService/Encode"
LIMIT = 2**20


class Echo(encoder_pb2_grpc.EncoderServiceServicer, llm_pb2_grpc.LLMServiceServicer):
    """Answers when the gate is open; a call whose request asks for it fails."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Semaphore(0)

    async def Encode(self, request: encoder_pb2.EncodeRequest, context: object) -> encoder_pb2.EncodeResponse:  # noqa: N802
        self.reached.release()
        await self.gate.wait()
        if request.pruner:
            raise InvalidRequest("as asked for")
        return encoder_pb2.EncodeResponse(pruner=str(sum(map(len, request.images))))

    async def Generate(self, request: llm_pb2.GenerateRequest, context: object) -> AsyncIterator[Any]:  # noqa: N802
        yield llm_pb2.GenerateResponse(delta=llm_pb2.Delta(text="so far"))
        self.reached.release()
        await self.gate.wait()
        yield llm_pb2.GenerateResponse(done=llm_pb2.Done(prompt_tokens=len(request.input_ids)))


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def server(echo: Echo) -> AsyncIterator[GrpcServer]:
    server = GrpcServer(
        ServerConfig(
            "127.0.0.1:0", max_message_bytes=2**23, max_concurrent_rpcs=32, max_bytes_in_flight=LIMIT, reflection=True
        ),
        services=["fovea.v1.LLMService"],
    )
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(echo, server.grpc)
    llm_pb2_grpc.add_LLMServiceServicer_to_server(echo, server.grpc)
    await server.start()
    await server.ready()
    yield server
    await server.drain(0)


@pytest.fixture
async def channel(server: GrpcServer) -> AsyncIterator[grpc.aio.Channel]:
    async with connect(f"127.0.0.1:{server.port}", max_message_bytes=2**26) as channel:
        yield channel


def counted(method: str, code: str) -> float:
    return REGISTRY.get_sample_value("fovea_requests_total", {"method": method, "code": code}) or 0.0


async def send(channel: grpc.aio.Channel, method: str, *messages: bytes) -> list[bytes]:
    """Sends bytes as they are, on a call that could send any number of them."""
    if method == GENERATE:
        return [reply async for reply in channel.stream_stream(method)(iter(messages), timeout=TIMEOUT_S)]
    return [await channel.stream_unary(method)(iter(messages), timeout=TIMEOUT_S)]


async def refused(sending: Any) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sending
    return from_rpc_error(caught.value, "service")


def image(size: int) -> bytes:
    return encoder_pb2.EncodeRequest(images=[bytes(size)]).SerializeToString()


@pytest.mark.parametrize("method", [GENERATE, ENCODE])
@pytest.mark.parametrize(
    "messages",
    [
        [b"\xff\xff\xff\xff"],
        [b"\x0a\x7f\x01"],
        [b"\x1a\x02\xff\xfe"],
        [b"\x0b\x0c"],
        [],
    ],
    ids=["noise", "cut", "text", "group", "none at all"],
)
async def test_bytes_that_are_no_message_are_an_invalid_request_and_counted(
    channel: grpc.aio.Channel, method: str, messages: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    name = method.rsplit("/", 1)[1]
    before = counted(name, MalformedRequest.code)
    error = await refused(send(channel, method, *messages))
    assert type(error) is MalformedRequest
    assert error.grpc_status is grpc.StatusCode.INVALID_ARGUMENT
    assert counted(name, MalformedRequest.code) == before + 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert await send(channel, method, b"")  # an empty message is one with all its defaults


async def test_health_refuses_random_and_oversized_messages(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    before = counted(interceptors.ANY_METHOD, MalformedRequest.code)
    for method in ("Check", "Watch"):
        call = channel.stream_stream(f"/grpc.health.v1.Health/{method}")
        for data in (b"\xff\xff\xff", b"\x7a\x00" * 4000):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(iter([data]), timeout=TIMEOUT_S).read()
            assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE)
    assert counted(interceptors.ANY_METHOD, MalformedRequest.code) == before + 2
    stub = health_pb2_grpc.HealthStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    asked = health_pb2.HealthCheckRequest(service="fovea.v1.LLMService")
    assert (await stub.Check(asked, timeout=TIMEOUT_S)).status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(asked, timeout=TIMEOUT_S)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_reflection_refuses_random_bytes_and_still_answers(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    call = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(iter([b"\xff\xff"]), timeout=TIMEOUT_S).read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    lists_services = b"\x3a\x00"
    replies = [reply async for reply in call(iter([lists_services] * 2), timeout=TIMEOUT_S)]
    assert len(replies) == 2
    assert all(b"fovea.v1.LLMService" in reply for reply in replies)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_reflection_is_off_by_default() -> None:
    server = GrpcServer(ServerConfig("127.0.0.1:0", max_message_bytes=2**23, max_concurrent_rpcs=32), services=["x"])
    await server.start()
    async with connect(f"127.0.0.1:{server.port}", max_message_bytes=2**23) as channel:
        call = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(iter([b"\x3a\x00"]), timeout=TIMEOUT_S).read()
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await server.drain(0)


async def test_a_method_that_does_not_exist_is_counted_without_its_name(channel: grpc.aio.Channel) -> None:
    before = counted(interceptors.ANY_METHOD, "unimplemented")
    for name in ("/fovea.v1.LLMService/Nothing", "/nobody/at-all"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(name)(b"", timeout=TIMEOUT_S)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert counted(interceptors.ANY_METHOD, "unimplemented") == before + 2


async def test_a_compressed_message_is_refused_before_it_is_inflated(server: GrpcServer) -> None:
    """Eight kilobytes on the wire would be eight megabytes here; gRPC looks at their size only then."""
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as theirs:
        call = theirs.unary_unary(ENCODE)(image(2**22), timeout=TIMEOUT_S, compression=grpc.Compression.Gzip)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await theirs.unary_unary(ENCODE)(b"", timeout=TIMEOUT_S)


async def test_a_flood_of_metadata_is_refused(channel: grpc.aio.Channel) -> None:
    flood = [(f"x-{i}", "y" * 1000) for i in range(100)]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(ENCODE)(b"", timeout=TIMEOUT_S, metadata=flood)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await channel.unary_unary(ENCODE)(b"", timeout=TIMEOUT_S)


async def test_a_call_without_a_message_times_out(channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "_RECEIVE_TIMEOUT_S", 0.01)
    call = channel.stream_unary(ENCODE)(timeout=TIMEOUT_S)
    error = await refused(call)
    assert type(error) is DeadlineExceeded
    assert "did not arrive" in error.message


@contextlib.asynccontextmanager
async def held(echo: Echo, channel: grpc.aio.Channel, method: str, data: bytes) -> AsyncIterator[grpc.aio.Call]:
    """A call that has handed its message over and waits for the gate."""
    echo.gate.clear()
    call = (channel.unary_stream if method == GENERATE else channel.unary_unary)(method)(data, timeout=TIMEOUT_S)
    reading = asyncio.create_task(call.read()) if method == GENERATE else None
    async with asyncio.timeout(TIMEOUT_S):
        await echo.reached.acquire()
    yield call
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        if reading is None:
            await call
            return
        await reading
        while await call.read() is not grpc.aio.EOF:
            pass


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110  # waits for the other end of a real connection
            await asyncio.sleep(0)


async def test_messages_beyond_the_memory_for_them_are_refused_until_there_is_room(
    echo: Echo, server: GrpcServer, channel: grpc.aio.Channel
) -> None:
    before = counted("Encode", Overloaded.code)
    async with held(echo, channel, ENCODE, image(LIMIT // 4)) as first:
        error = await refused(channel.unary_unary(ENCODE)(image(LIMIT // 3), timeout=TIMEOUT_S))
        assert type(error) is Overloaded
        assert error.retry_after_s == 1.0
        assert counted("Encode", Overloaded.code) == before + 1
        echo.gate.set()
        await first
    await until(lambda: server.in_flight.held == 0)
    assert await channel.unary_unary(ENCODE)(image(LIMIT // 3), timeout=TIMEOUT_S)


async def test_a_call_that_is_alone_is_accepted_and_the_next_is_refused_unread(
    echo: Echo, server: GrpcServer, channel: grpc.aio.Channel
) -> None:
    async with held(echo, channel, ENCODE, image(4 * LIMIT)) as first:
        sending = channel.stream_unary(ENCODE)(timeout=TIMEOUT_S)
        error = await refused(sending)  # it has sent nothing yet
        assert type(error) is Overloaded
        stub = health_pb2_grpc.HealthStub(channel)
        assert await stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        echo.gate.set()
        await first


@pytest.mark.parametrize(
    ("method", "end"),
    [(GENERATE, "cancelled"), (GENERATE, "answered"), (ENCODE, "cancelled"), (ENCODE, "answered"), (ENCODE, "refused")],
)
async def test_the_bytes_of_a_call_are_released_however_it_ends(
    echo: Echo, server: GrpcServer, channel: grpc.aio.Channel, method: str, end: str
) -> None:
    data = llm_pb2.GenerateRequest(input_ids=range(1000)).SerializeToString() if method == GENERATE else image(1000)
    data += b"\x1a\x01x" if end == "refused" else b""
    async with held(echo, channel, method, data) as call:
        assert server.in_flight.held == 2 * len(data)
        if end == "cancelled":
            call.cancel()
        echo.gate.set()
    await until(lambda: server.in_flight.held == 0)


def encode_requests() -> list[encoder_pb2.EncodeRequest]:
    """All that are in memory."""
    return [one for one in gc.get_objects() if type(one) is encoder_pb2.EncodeRequest]


async def test_a_message_that_is_refused_is_not_kept(channel: grpc.aio.Channel, server: GrpcServer) -> None:
    """Without the collector's help: an error's frames once held the message until it came round."""
    gc.collect()
    before = encode_requests()  # of other tests
    gc.disable()
    try:
        for _ in range(3):
            await refused(channel.unary_unary(ENCODE)(b"\x1a\x01x" + image(2**20), timeout=TIMEOUT_S))
        # The client may have the status before the server's call has returned.
        await until(lambda: all(any(one is other for other in before) for one in encode_requests()))
    finally:
        gc.enable()
