"""X-Forwarded-For and X-Forwarded-Proto, believed of trusted proxies only."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from gateway.server.trusted_proxies import TrustedProxies
from gateway.settings import GatewaySettings
from tests.unit.gateway.conftest import Gateway, StartGateway
from tests.unit.gateway.raw_http import RawConnection

PROXY = "10.0.0.7"


def _seen(client: str, *forwarded: str, trusted: tuple[str, ...] = ("10.0.0.0/8", "fd00::/8"), proto: str = "") -> Any:
    """Client and scheme of a request that comes from `client` with these headers."""
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    if proto:
        headers.append((b"x-forwarded-proto", proto.encode()))
    scope = {"client": (client, 4711), "scheme": "http", "headers": headers}
    TrustedProxies(trusted).apply(scope)
    return scope["client"][0], scope["scheme"]


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9:4711"], "203.0.113.9"),
        (["2001:db8::9"], "2001:db8::9"),
        (["[2001:db8::9]:4711"], "2001:db8::9"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1, 203.0.113.9"], "203.0.113.9"),  # the first one is of the client's own making
        (["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9, 10.1.1.1, fd00::1"], "203.0.113.9"),  # through three proxies
        (["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
        (["198.51.100.1, unknown"], PROXY),
        (["198.51.100.1, unknown, 10.1.1.1"], "10.1.1.1"),
        ([""], PROXY),
        (["\xff, ,"], PROXY),
        (["10.1.1.1," * 2000 + "10.2.2.2"], "10.1.1.1"),
        ([], PROXY),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxy(forwarded: list[str], client: str) -> None:
    assert _seen(PROXY, *forwarded) == (client, "http")


def test_other_clients_are_not_believed() -> None:
    assert _seen("203.0.113.1", "198.51.100.1", proto="https") == ("203.0.113.1", "http")
    assert _seen("127.0.0.1", "198.51.100.1", trusted=()) == ("127.0.0.1", "http")


def test_a_proxy_on_a_dual_stack_socket_is_its_ipv4_address() -> None:
    assert _seen("::ffff:10.0.0.7", "203.0.113.9") == ("203.0.113.9", "http")


@pytest.mark.parametrize(
    ("proto", "scheme"), [("https", "https"), ("HTTPS", "https"), ("http", "http"), ("ws", "http")]
)
def test_the_scheme_is_that_of_the_proxy(proto: str, scheme: str) -> None:
    assert _seen(PROXY, proto=proto)[1] == scheme


@pytest.mark.parametrize("value", ["10.0.0.1/8", "proxy.example", "*", "10.0.0.0/33"])
def test_what_is_no_network_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        GatewaySettings.from_command_line(["--model", "m", "--trusted-proxies", f"10.0.0.7, {value}"])
    assert f"{value!r} is neither an IP address nor a network" in capsys.readouterr().err


async def _scope(gateway: Gateway, headers: bytes) -> Scope:
    """The scope that reaches the application."""
    seen: list[Scope] = []
    assert gateway.rest_server is not None
    app = gateway.rest_server.config.loaded_app

    async def spy(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await app(scope, receive, send)

    gateway.rest_server.config.loaded_app = spy
    async with RawConnection(gateway) as client:
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n")
        await client.response()
    return seen[0]


@pytest.mark.parametrize(("trusted", "client"), [("", "127.0.0.1"), ("127.0.0.1", "203.0.113.9")])
async def test_nobody_is_trusted_by_default(start_gateway: StartGateway, trusted: str, client: str) -> None:
    gateway = await start_gateway(over_tcp=True, trusted_proxies=trusted)
    scope = await _scope(gateway, b"X-Forwarded-For: 203.0.113.9\r\n")
    assert scope["client"][0] == client
