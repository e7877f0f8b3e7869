"""Channels to a name with many addresses, like a headless Kubernetes service, with a real DNS server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import grpc
import grpc.aio
import pytest

from fovea.rpc import channel as channel_module
from fovea.rpc.channel import Access, Connection, connect
from fovea.rpc.server import GrpcServer, ServerConfig
from tests.dns_zone import Zone

pytestmark = pytest.mark.slow

# Shorter than the 30 s that gRPC by default lets pass between two look-ups of a name.
PATIENCE_S = 20.0
SEVERAL = 10


@pytest.fixture
def zone() -> Iterator[Zone]:
    with Zone() as zone:
        yield zone


class Pods:
    """Servers on addresses of their own and one port, each of which answers with its address."""

    def __init__(self) -> None:
        self.port = 0
        self._servers: dict[str, GrpcServer] = {}

    async def start(self, address: str, **options: float) -> None:
        async def say(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            return address.encode()

        listen = f"{address}:{self.port}"
        server = GrpcServer(
            ServerConfig(listen, max_message_bytes=2**20, max_concurrent_rpcs=SEVERAL, **options), services=[]
        )
        handlers = {"Who": grpc.unary_unary_rpc_method_handler(say)}
        server.grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Pod", handlers),))
        self.port = server.port
        await server.start()
        self._servers[address] = server

    async def stop(self, *addresses: str) -> None:
        for address in addresses or list(self._servers):
            await self._servers.pop(address).drain(0)


@pytest.fixture
async def pods() -> AsyncIterator[Pods]:
    pods = Pods()
    yield pods
    await pods.stop()


async def who(channel: grpc.aio.Channel) -> str:
    return str(await channel.unary_unary("/Pod/Who")(b"", timeout=PATIENCE_S, wait_for_ready=True), "ascii")


async def test_calls_are_spread_evenly_over_all_addresses(zone: Zone, pods: Pods) -> None:
    zone.addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    for address in zone.addresses:
        await pods.start(address)
    async with connect(zone.target(pods.port), max_message_bytes=2**20) as channel:
        seen: set[str] = set()
        while seen != set(zone.addresses):  # until all connections stand
            seen.add(await who(channel))
        answers = [await who(channel) for _ in range(3 * SEVERAL)]
    assert {address: answers.count(address) for address in zone.addresses} == dict.fromkeys(zone.addresses, SEVERAL)


async def test_a_pod_that_replaces_the_only_one_is_soon_found_at_its_new_address(zone: Zone, pods: Pods) -> None:
    zone.addresses = ["127.0.0.2"]
    await pods.start("127.0.0.2")
    async with connect(zone.target(pods.port), max_message_bytes=2**20) as channel:
        assert await who(channel) == "127.0.0.2"
        await pods.stop("127.0.0.2")
        async with asyncio.timeout(PATIENCE_S):  # a call on a connection that breaks just then is UNAVAILABLE
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        await pods.start("127.0.0.3")
        zone.addresses = ["127.0.0.3"]
        assert await who(channel) == "127.0.0.3"


async def test_an_added_pod_is_found_once_the_connections_are_old(zone: Zone, pods: Pods) -> None:
    zone.addresses = ["127.0.0.2"]
    await pods.start("127.0.0.2", max_connection_age_s=1)
    async with connect(zone.target(pods.port), max_message_bytes=2**20) as channel:
        assert await who(channel) == "127.0.0.2"
        await pods.start("127.0.0.3")
        zone.addresses += ["127.0.0.3"]
        async with asyncio.timeout(PATIENCE_S):
            while await who(channel) != "127.0.0.3":
                pass


async def test_a_name_without_an_address_is_asked_for_again_without_growing_pauses(
    zone: Zone, pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "_RENEW_AFTER_S", 0.1)
    await pods.start("127.0.0.2")
    connection = Connection(zone.target(pods.port), max_message_bytes=2**20, access=Access())
    async with asyncio.timeout(PATIENCE_S):  # gRPC alone would by then have asked 6 times
        while zone.asked < SEVERAL:
            with pytest.raises(grpc.aio.AioRpcError):
                await connection.channel.unary_unary("/Pod/Who")(b"", timeout=PATIENCE_S)
            await asyncio.sleep(0.01)
    zone.addresses = ["127.0.0.2"]
    answer = b""
    async with asyncio.timeout(PATIENCE_S):
        while not answer:
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = await connection.channel.unary_unary("/Pod/Who")(b"", timeout=PATIENCE_S)
            await asyncio.sleep(0.01)
    assert answer == b"127.0.0.2"
    await connection.close()
