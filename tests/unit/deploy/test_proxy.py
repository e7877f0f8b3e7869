"""The limits of deploy/proxy/nginx.conf fit those of the gateway behind it. tests/e2e/test_proxy.py runs the file."""

from __future__ import annotations

from gateway.settings import GatewaySettings
from tests.nginx import directives

SETTINGS = GatewaySettings(model="m")


def seconds(name: str) -> list[float]:
    return [float(value.removesuffix("s")) for value in directives(name)]


def test_the_proxy_takes_bodies_as_large_as_the_gateway_does() -> None:
    assert directives("client_max_body_size") == [f"{SETTINGS.max_body_bytes // 2**20}m", "0"]


def test_the_proxy_waits_longer_than_any_request_may_take() -> None:
    assert seconds("proxy_read_timeout")[0] > SETTINGS.max_timeout_s
    assert seconds("worker_shutdown_timeout")[0] > seconds("proxy_read_timeout")[0]


def test_idle_connections_are_closed_by_the_proxy_first() -> None:
    _, upstream = sorted(seconds("keepalive_timeout"), reverse=True)
    assert upstream < SETTINGS.keep_alive_s
