from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.fovea.bench.chat_endpoint import ChatEndpoint


@pytest.fixture
def endpoint() -> Iterator[ChatEndpoint]:
    with ChatEndpoint() as server:
        yield server
