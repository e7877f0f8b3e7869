"""Limits on the number of connections, in all and of one address; and what happens without file descriptors."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fovea.processes.stack import free_port
from fovea.repeated_message import RepeatedMessage
from gateway.server.connection_count import ConnectionCount, TooManyConnections
from gateway.server.file_descriptors import TooFewFileDescriptors, raise_file_limit
from gateway.server.trusted_proxies import TrustedProxies
from tests.unit.gateway.conftest import StartGateway, failures
from tests.unit.gateway.gateway_process import gateway_process
from tests.unit.gateway.raw_http import GET, RawConnection


async def _answers(client: RawConnection) -> bool:
    """Whether the connection is served; False if it is closed."""
    try:
        await client.send(GET)
        return (await client.response()).status == 200
    except (asyncio.IncompleteReadError, ConnectionError):
        return False


async def test_connections_beyond_the_limit_are_closed_and_counted(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(over_tcp=True, max_connections=2)
    before = failures("connection_refused")
    async with RawConnection(gateway) as first:
        assert await _answers(first)
        async with RawConnection(gateway) as second:
            assert await _answers(second)
            for _ in range(5):
                async with RawConnection(gateway) as beyond:
                    assert not await _answers(beyond)
            assert await _answers(first)
            await second.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            await second.response()
            assert await second.is_closed()
        async with RawConnection(gateway) as third:  # a closed connection leaves its place
            assert await _answers(third)
    assert failures("connection_refused") == before + 5
    assert len([record for record in caplog.records if "--max-connections (2)" in record.getMessage()]) == 1


async def test_one_address_cannot_take_all_connections(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True, max_connections_per_address=1)
    async with RawConnection(gateway, local="127.0.0.2") as first, RawConnection(gateway, local="127.0.0.2") as second:
        assert await _answers(first)
        assert not await _answers(second)
        async with RawConnection(gateway, local="127.0.0.3") as other:
            assert await _answers(other)


async def test_trusted_proxies_are_not_limited_by_address(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(over_tcp=True, max_connections_per_address=1, trusted_proxies="127.0.0.2")
    async with RawConnection(gateway, local="127.0.0.2") as first, RawConnection(gateway, local="127.0.0.2") as second:
        assert await _answers(first)
        assert await _answers(second)


def test_a_client_is_an_ipv4_address_or_a_64_of_ipv6() -> None:
    count = ConnectionCount(100, 1, TrustedProxies([]))
    for host in ("192.0.2.1", "2001:db8:0:1::1", "192.0.2.2", "2001:db8:0:2::1"):
        count.enter(host)
    for host in ("192.0.2.1", "::ffff:192.0.2.2", "2001:db8:0:1:ffff::2"):
        with pytest.raises(TooManyConnections, match="one address has"):
            count.enter(host)


def test_a_place_is_left_once() -> None:
    count = ConnectionCount(2, 2, TrustedProxies([]))
    first, second = count.enter("192.0.2.1"), count.enter("192.0.2.1")
    first.leave()
    first.leave()
    assert count.num_open == 1
    second.leave()
    assert count.num_open == 0


async def test_without_file_descriptors_the_log_stays_short(llava: Path, clip: Path) -> None:
    metrics_port = free_port()
    metrics = ("--metrics-listen", f"127.0.0.1:{metrics_port}")
    async with gateway_process(llava, clip, *metrics) as (url, process, log):
        port = urlsplit(url).port
        assert port is not None
        async with RawConnection(("127.0.0.1", port)) as before:
            assert await _answers(before)
            _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
            num_open = len(os.listdir(f"/proc/{process.pid}/fd"))
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (num_open, hard))
            waiting = [RawConnection(("127.0.0.1", port)) for _ in range(20)]
            for client in waiting:
                await client.__aenter__()
            line = json.loads(await log.readline())
            assert line["message"] == "no connection can be accepted: Too many open files"
            assert "exception" not in line
            assert await _answers(before)
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))
            for client in waiting:
                assert await _answers(client)
                await client.__aexit__(None, None, None)
        reader, writer = await asyncio.open_connection("127.0.0.1", metrics_port)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert b'fovea_failures_total{kind="accept"}' in await reader.read()
        writer.close()
        process.terminate()
        lines = (await log.read()).splitlines()
        assert await process.wait() == 0
    assert not [line for line in lines if b"accepted" in line]


def test_a_message_that_repeats_is_written_once_an_interval(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    message = RepeatedMessage(logging.getLogger("test"), logging.ERROR, 10, clock=lambda: now)
    for _ in range(1000):
        message.write("no connection")
    now = 10.0
    message.write("no connection")
    assert caplog.messages == ["no connection", "no connection (999 more since the last such line)"]


def test_more_connections_than_file_descriptors_are_refused_at_the_start() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with pytest.raises(TooFewFileDescriptors, match=rf"limit of {hard} file descriptors; up to {hard - 512} do"):
            raise_file_limit(hard - 511)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
        raise_file_limit(hard - 512)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
