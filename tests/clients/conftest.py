"""Clients that others wrote, on the three services with the shipped model (`make test-clients`).

Without the variable CLIENTS_VENV, which names the folder of their environments, none of these tests is collected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fovea.processes.stack import Stack
from lab.questions import evaluation_questions
from tests.lab_stack import lab_stack

_STARTUP_S = 240

collect_ignore_glob = [] if os.environ.get("CLIENTS_VENV") else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(900))  # some clients import for a minute


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The services, which list two aliases of the model."""
    aliases = ["--alias", "fovea-lab@none", "--alias", "fovea-lab@desap:16"]
    with lab_stack(tmp_path_factory.mktemp("stack") / "log", gateway=aliases) as running:
        running.wait_ready(_STARTUP_S)
        yield running


@pytest.fixture(scope="session")
def http(stack: Stack) -> Iterator[httpx.Client]:
    """Client of Fovea's own API."""
    with httpx.Client(base_url=stack.url, timeout=120, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two images of the small world as PNG files."""
    folder = tmp_path_factory.mktemp("images")
    questions = evaluation_questions("easy", 902, 2, groups=("caption",))
    paths = [folder / f"{number}.png" for number in range(len(questions))]
    for path, question in zip(paths, questions, strict=True):
        question.image.save(path)
    return paths
