"""The Prometheus endpoint answers scrapes, and bounds what anything else on its port may take."""

from __future__ import annotations

import socket
import threading

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fovea import telemetry
from fovea.metrics_endpoint import MetricsEndpoint

TIMEOUT_S = 20


def connect(endpoint: MetricsEndpoint) -> socket.socket:
    return socket.create_connection(("127.0.0.1", endpoint.server_port), timeout=TIMEOUT_S)


def scrape(endpoint: MetricsEndpoint) -> set[str]:
    response = httpx.get(f"http://127.0.0.1:{endpoint.server_port}/metrics", trust_env=False, timeout=TIMEOUT_S)
    assert response.status_code == 200
    return {family.name for family in text_string_to_metric_families(response.text)}


def test_a_scrape_has_the_metrics_of_the_process() -> None:
    with MetricsEndpoint("127.0.0.1", 0) as endpoint:
        ours = {family.name for metric in (telemetry.REQUESTS, telemetry.FAILURES) for family in metric.collect()}
        assert ours <= scrape(endpoint)


def test_an_address_of_ipv6_is_accepted() -> None:
    with MetricsEndpoint("::1", 0) as endpoint:
        response = httpx.get(f"http://[::1]:{endpoint.server_port}/metrics", trust_env=False, timeout=TIMEOUT_S)
        assert response.status_code == 200


def test_a_taken_address_is_an_error() -> None:
    with MetricsEndpoint("127.0.0.1", 0) as endpoint, pytest.raises(OSError, match="in use"):
        MetricsEndpoint("127.0.0.1", endpoint.server_port)


def test_silent_connections_hold_few_threads_and_the_others_are_closed_at_once() -> None:
    with MetricsEndpoint("127.0.0.1", 0, max_seconds=600) as endpoint:
        before = threading.active_count()
        silent = [connect(endpoint) for _ in range(8)]
        for _ in range(20):  # further connections are closed without an answer
            with connect(endpoint) as surplus:
                assert surplus.recv(1) == b""
        assert threading.active_count() - before <= 2 * len(silent)  # one serves, one ends the connection
        for one in silent:
            one.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert one.recv(12) == b"HTTP/1.0 200"
            one.close()


def test_a_connection_ends_in_time_whatever_arrives_on_it() -> None:
    with MetricsEndpoint("127.0.0.1", 0, max_seconds=0.05) as endpoint, connect(endpoint) as slow:
        slow.sendall(b"GET /metrics HTTP/1.0\r\nx: ")
        assert slow.recv(1) == b""
