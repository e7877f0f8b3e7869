"""An error raised in a servicer is the same error at the client, over a real connection."""

from collections.abc import AsyncIterator

import grpc
import pytest

from fovea import errors
from fovea.errors import InternalError, ServiceError, Unavailable, error_types, from_rpc_error
from fovea.processes.stack import free_port
from fovea.rpc.channel import connect
from fovea.rpc.server import BindError, GrpcServer, ServerConfig
from fovea.v1 import encoder_pb2, encoder_pb2_grpc, llm_pb2, llm_pb2_grpc


class Raising(encoder_pb2_grpc.EncoderServiceServicer, llm_pb2_grpc.LLMServiceServicer):
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def Encode(self, request: encoder_pb2.EncodeRequest, context: object) -> encoder_pb2.EncodeResponse:  # noqa: N802
        raise self.error

    async def Generate(  # noqa: N802
        self, request: llm_pb2.GenerateRequest, context: object
    ) -> AsyncIterator[llm_pb2.GenerateResponse]:
        yield llm_pb2.GenerateResponse(delta=llm_pb2.Delta(text="so far"))
        raise self.error


async def both_ways(error: Exception) -> list[ServiceError]:
    """What a client gets when a unary and a streaming method raise `error`."""
    server = GrpcServer(ServerConfig("127.0.0.1:0", max_message_bytes=1 << 20, max_concurrent_rpcs=8), services=[])
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(Raising(error), server.grpc)
    llm_pb2_grpc.add_LLMServiceServicer_to_server(Raising(error), server.grpc)
    await server.start()
    caught = []
    try:
        async with connect(f"127.0.0.1:{server.port}", max_message_bytes=1 << 20) as channel:
            try:
                await encoder_pb2_grpc.EncoderServiceStub(channel).Encode(encoder_pb2.EncodeRequest(), timeout=10)
            except grpc.aio.AioRpcError as failure:
                caught.append(from_rpc_error(failure, "encoder service"))
            try:
                async for _ in llm_pb2_grpc.LLMServiceStub(channel).Generate(llm_pb2.GenerateRequest(), timeout=10):
                    pass
            except grpc.aio.AioRpcError as failure:
                caught.append(from_rpc_error(failure, "LLM service"))
    finally:
        await server.drain(0)
    assert len(caught) == 2
    return caught


@pytest.mark.parametrize("kind", error_types().values(), ids=lambda kind: kind.code)
async def test_every_error_survives_the_wire(kind: type[ServiceError]) -> None:
    for got in await both_ways(kind("größer als 7", param="keep_tokens", retry_after_s=2.5)):
        assert type(got) is kind
        assert (got.message, got.param, got.retry_after_s) == ("größer als 7", "keep_tokens", 2.5)


async def test_a_defect_reaches_the_caller_without_its_details() -> None:
    for got in await both_ways(ZeroDivisionError("secret /etc/path")):
        assert type(got) is InternalError
        assert "secret" not in got.message


async def test_a_message_too_long_for_a_header_is_cut_and_keeps_its_kind() -> None:
    for got in await both_ways(errors.NotFound("no pruner " + "x" * 50_000)):
        assert type(got) is errors.NotFound
        assert len(got.message) < 2_000


async def test_two_servers_cannot_share_an_address() -> None:
    first = GrpcServer(ServerConfig("127.0.0.1:0", max_message_bytes=1 << 20, max_concurrent_rpcs=8), services=[])
    with pytest.raises(BindError, match="cannot listen on"):
        GrpcServer(
            ServerConfig(f"127.0.0.1:{first.port}", max_message_bytes=1 << 20, max_concurrent_rpcs=8), services=[]
        )
    await first.drain(0)


async def test_a_service_that_is_down_is_named_without_its_address() -> None:
    port = free_port()
    async with connect(f"127.0.0.1:{port}", max_message_bytes=1 << 20) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await encoder_pb2_grpc.EncoderServiceStub(channel).Encode(encoder_pb2.EncodeRequest(), timeout=10)
    got = from_rpc_error(failure.value, "encoder service")
    assert type(got) is Unavailable
    assert got.retry_after_s
    assert "encoder service" in got.message
    assert "127.0.0.1" not in got.message
    assert str(port) not in got.message


def test_the_tree_in_the_docstring_is_the_table_in_the_code() -> None:
    documented = {
        (words[0], words[1], int(words[2]))
        for line in (errors.__doc__ or "").splitlines()
        if line.startswith(("├──", "└──")) and (words := line.lstrip("├└─ ").split())
    }
    assert documented == {(cls.__name__, cls.grpc_status.name, cls.http_status) for cls in error_types().values()}


def test_every_error_is_exported() -> None:
    assert {cls.__name__ for cls in error_types().values()} < set(errors.__all__)
