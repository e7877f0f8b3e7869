from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.plain_gateway import PlainGateway


@pytest.fixture
def gateway() -> Iterator[PlainGateway]:
    with PlainGateway() as server:
        yield server
