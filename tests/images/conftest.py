"""The images, and the compose files that start them (`make test-images`).

Without the variable IMAGE_TAG, which names the tag of images that were built, none of these tests is collected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.compose import Compose, compose_commands
from tests.images.gateway import Gateway

collect_ignore_glob = [] if os.environ.get("IMAGE_TAG") else ["test_*.py"]

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def compose() -> Iterator[Compose]:
    """docker-compose.yml, started: all its containers are healthy."""
    project = Compose(compose_commands()[-1], ROOT / "docker-compose.yml")
    with project:
        project.up()
        yield project


@pytest.fixture
def gateway(compose: Compose) -> Gateway:
    """The gateway of docker-compose.yml, asked with the key of its first start."""
    gateway = Gateway(compose.url, compose.container("gateway").output("cat", "/secrets/default.key").strip())
    gateway.wait_until_ready()
    return gateway
