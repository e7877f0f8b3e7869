"""The three services as real processes on loopback, with the shipped model; started once for tests that only ask."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fovea.processes.stack import Stack, free_port
from lab.questions import Question, evaluation_questions
from tests.documented import ROOT
from tests.lab_stack import lab_stack
from tests.redis_server import RedisServer
from tests.repository import unignored_files

STARTUP_S = 240


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def gateway_metrics() -> str:
    """host:port of the Prometheus endpoint of the gateway of `stack`."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="session")
def stack(gateway_metrics: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Embedded caches, tokens in float32 on the wire."""
    flags = ["--wire-dtype", "float32", "--metrics-listen", gateway_metrics]
    with lab_stack(tmp_path_factory.mktemp("stack") / "log", gateway=flags) as running:
        running.wait_ready(STARTUP_S)
        yield running


def _files() -> dict[str, str]:
    """Digests of all files of the repository that git does not ignore."""
    paths = [ROOT / name for name in unignored_files()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture
def unchanged() -> Iterator[None]:
    """Fails a test that changes a file of the repository."""
    before = _files()
    yield
    assert _files() == before


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


class Client:
    """An ordinary HTTP client of a gateway."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=120, trust_env=False)

    def post(self, picture: bytes | None, question: str | None, **fields: Any) -> httpx.Response:
        body: dict[str, Any] = dict(fields)
        if picture is not None:
            body["image"] = data_url(picture)
        if question is not None:
            body["question"] = question
        return self.http.post("/v1/answer", json=body)

    def ask(self, picture: bytes, question: str, **fields: Any) -> dict[str, Any]:
        response = self.post(picture, question, **fields)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    client = Client(stack.url)
    with client.http:
        yield client


def data_url(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def png(question: Question) -> bytes:
    file = io.BytesIO()
    question.image.save(file, "PNG")
    return file.getvalue()


class Pictures:
    """Images of the small world, each given out once, so that no test fills the cache for another."""

    def __init__(self) -> None:
        self._questions = iter(evaluation_questions("easy", 77, 300, groups=("existence",)))

    def fresh(self) -> bytes:
        return png(next(self._questions))


@pytest.fixture(scope="session")
def pictures() -> Pictures:
    return Pictures()


@pytest.fixture
def picture(pictures: Pictures) -> bytes:
    return pictures.fresh()
