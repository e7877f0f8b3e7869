"""Fixtures of the tests of the `fovea` command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.plain_gateway import PlainGateway
from tests.unit.fovea.cli.commands import DEMO


@pytest.fixture
def image(tmp_path: Path) -> str:
    return str(shutil.copy(DEMO, tmp_path / "demo.png"))


@pytest.fixture
def answering(gateway: PlainGateway) -> PlainGateway:
    gateway.answers({"answer": "pink"})
    return gateway
