"""An LLM service that is replaced by one at another address while clients ask.

The one before is of an earlier commit, unless the history is not here.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fovea.processes.stack import Stack, free_port
from tests.contract.checkouts import extract, is_known
from tests.contract.record import checkout_stack
from tests.contract.recordings import COMMITS
from tests.dns_zone import Zone
from tests.e2e.conftest import STARTUP_S, Client
from tests.lab_stack import lab_stack
from tests.waiting import wait_until

TIMEOUT_S = 60
SEVERAL = 10


def wait_for(condition: Callable[[], bool]) -> None:
    wait_until(condition, TIMEOUT_S)


class Replicas:
    """LLM services on loopback addresses of their own, and a name that resolves to the ready ones."""

    def __init__(self, folder: Path, zone: Zone) -> None:
        self._folder = folder
        self._zone = zone
        self._port = free_port()
        self._running: dict[str, Stack] = {}
        self.target = zone.target(self._port)

    def start(self, address: str, checkout: Path | None = None) -> None:
        """Starts a replica of a checkout, or of this tree, and adds it to the name when it is ready."""
        log = self._folder / address
        replica = self._running[address] = lab_stack(log) if checkout is None else checkout_stack(checkout, log)
        replica.llm_address = f"{address}:{self._port}"
        replica.start("llm_service")
        wait_for(lambda: re.search(r"serving .*fovea-lab", log.read_text()) is not None)
        self._zone.addresses = [*self._zone.addresses, address]

    def stop(self, *addresses: str) -> None:
        """Removes a replica from the name and sends SIGTERM, as Kubernetes does, in no fixed order."""
        for address in addresses or list(self._running):
            ending = threading.Thread(target=self._running.pop(address).stop)
            ending.start()
            self._zone.addresses = [one for one in self._zone.addresses if one != address]
            ending.join()


class Asking(threading.Thread):
    """A client that asks again and again, until it is stopped."""

    def __init__(self, url: str, picture: bytes) -> None:
        super().__init__()
        self._client = Client(url)
        self._picture = picture
        self._enough = threading.Event()
        self.statuses: list[int] = []

    def run(self) -> None:
        with self._client.http:
            while not self._enough.is_set():
                response = self._client.post(self._picture, "What do you see?", cache="bypass")
                self.statuses.append(response.status_code)

    def some_more(self) -> None:
        """Waits for several more answers."""
        enough = len(self.statuses) + SEVERAL
        wait_for(lambda: len(self.statuses) >= enough)

    def end(self) -> None:
        self._enough.set()
        self.join()


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Replicas]:
    earlier = extract(COMMITS[0], tmp_path / "checkout") if is_known(COMMITS[0]) else None
    with Zone() as zone:
        replicas = Replicas(tmp_path, zone)
        try:
            replicas.start("127.0.0.2", earlier)
            yield replicas
        finally:
            replicas.stop()


@pytest.fixture
def clients(replicas: Replicas, stack: Stack, tmp_path: Path, picture: bytes) -> Iterator[list[Asking]]:
    """Clients of a gateway of their own; its encoder service is the one that other tests use, too."""
    own = lab_stack(tmp_path / "log")
    own.encoder_address, own.llm_address = stack.encoder_address, replicas.target
    clients = [Asking(own.url, picture) for _ in range(2)]
    try:
        own.start("gateway")
        own.wait_ready(STARTUP_S)
        for client in clients:
            client.start()
        yield clients
    finally:
        for client in clients:
            if client.is_alive():
                client.end()
        own.stop()


def test_nobody_notices_a_rolling_update(replicas: Replicas, clients: list[Asking]) -> None:
    for client in clients:
        client.some_more()
    replicas.start("127.0.0.3")
    replicas.stop("127.0.0.2")
    for client in clients:
        client.some_more()
        client.end()
        assert set(client.statuses) == {200}
