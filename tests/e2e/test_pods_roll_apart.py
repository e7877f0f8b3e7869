"""Gateway, encoder service and LLM service of this tree and of an earlier commit, in every combination."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from fovea.processes.stack import Stack
from tests.contract.cases import CASES
from tests.contract.checkouts import environment, extract, is_known
from tests.contract.comparison import assert_alike
from tests.contract.record import checkout_stack, recorder
from tests.contract.recordings import COMMITS, Recording, Recordings, stable
from tests.e2e.conftest import STARTUP_S, Client
from tests.e2e.test_answers import events
from tests.lab_stack import lab_stack
from tests.redis_server import RedisServer

SERVICES = ("gateway", "encoder_service", "llm_service")
# All combinations but the one that answers for the others.
COMBINATIONS = [dict(zip(SERVICES, ages, strict=True)) for ages in itertools.product(("new", "old"), repeat=3)][:-1]
ASKED = ("defaults", "auto", "int4", "basis", "explain", "llm_pruner", "two_images", "sampled", "stop")
RECORDED_AGAIN = ("defaults", "explain")
REFUSED: dict[str, dict[str, Any]] = {
    "no image": {"image": "data:image/png;base64,bm90IGFuIGltYWdl"},
    "no such pruner": {"pruner": "nothing"},
    "wrong parameter of a pruner": {"pruner_params": {"task_share": 2}},
    "wrong parameter of an LLM pruner": {"llm_pruner": {"name": "fastv", "keep_ratio": 0.5, "params": {"layer": -1}}},
    "prompt longer than the context": {"question": "Is there a star? " * 400},
}


@pytest.fixture(scope="module", params=COMMITS)
def commit(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if not is_known(name):
        pytest.skip(f"commit {name} is not in the history here: a shallow clone, or no clone")
    return name


@pytest.fixture(scope="module")
def checkout(commit: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = extract(commit, tmp_path_factory.mktemp("checkout"))
    command = [sys.executable, "-c", "import fovea, gateway; print(fovea.__file__, gateway.__file__, sep='\\n')"]
    found = subprocess.run(command, env={**os.environ, **environment(folder)}, capture_output=True, text=True).stdout
    assert all(Path(file).is_relative_to(folder) for file in found.split())
    return folder


@pytest.fixture(scope="module")
def earlier(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Encoder service and LLM service of the commit."""
    services = checkout_stack(checkout, tmp_path_factory.mktemp("earlier") / "log")
    try:
        services.start("encoder_service", "llm_service")
        yield services
    finally:
        services.stop()


@dataclass(frozen=True)
class Observed:
    """Answers and errors of a gateway, as a client sees them.

    Attributes:
        answers: Response to each question, and to some again with the caches.
        streamed: Text of a stream, and its last event.
        refusals: Status and error of each wrong request.
        pruners: Parameters of each pruner by name.
    """

    answers: dict[str, Any]
    streamed: tuple[str, dict[str, Any]]
    refusals: dict[str, Any]
    pruners: dict[str, Any]


def observe(http: httpx.Client) -> Observed:
    cached = {f"{name}, cached": ask(http, name, cache="use") for name in ("defaults", "explain", "two_images")}
    answers = {name: ask(http, name, cache="bypass") for name in ASKED}
    for answer in cached.values():
        del answer["usage"]["wire_bytes"]  # depends on whether another gateway has asked before
    *pieces, (last, done) = events(http.post("/v1/answer", json={**CASES["defaults"].body, "stream": True}).text)
    assert last == "done"
    del done["usage"]["wire_bytes"]
    return Observed(
        {**answers, **cached},
        ("".join(piece["text"] for _, piece in pieces), stable(done)),
        {name: refusal(http, fields) for name, fields in REFUSED.items()},
        {one["name"]: pruner(one) for one in http.get("/v1/pruners").raise_for_status().json()["pruners"]},
    )


def ask(http: httpx.Client, case: str, **fields: str) -> dict[str, Any]:
    response = http.post(CASES[case].path, json={**CASES[case].body, **fields})
    assert response.status_code == 200, response.text
    return stable(response.json())


def refusal(http: httpx.Client, fields: dict[str, Any]) -> dict[str, Any]:
    """Status and error. Its text is for people."""
    response = http.post("/v1/answer", json={**CASES["defaults"].body, **fields})
    error = response.json()["error"]
    return {"status": response.status_code, **{name: error[name] for name in ("type", "code", "param")}}


def pruner(info: dict[str, Any]) -> dict[str, Any]:
    """Description that a client relies on: side, and types and defaults of parameters."""
    parameters = {one["name"]: {"default": one["default"], "type": one["type"]} for one in info["parameters"]}
    return {"side": info["side"], "reads_text": info["reads_text"], "parameters": parameters}


@dataclass(frozen=True)
class Baseline:
    """Behaviour of the gateway of the commit with its own services.

    Attributes:
        observed: Answers and errors that a client sees.
        recorded: Recordings of some cases.
    """

    observed: Observed
    recorded: dict[str, Recording]


@pytest.fixture(scope="module")
def baseline(earlier: Stack, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    gateway = checkout_stack(checkout, tmp_path_factory.mktemp("gateway") / "log")
    with recorder(earlier, gateway) as running:
        return Baseline(observe(running.http), {case: running.record(CASES[case]) for case in RECORDED_AGAIN})


@pytest.mark.parametrize("ages", COMBINATIONS, ids=["-".join(ages.values()) for ages in COMBINATIONS])
def test_services_of_two_commits_answer_as_those_of_one(
    ages: dict[str, str],
    stack: Stack,
    earlier: Stack,
    checkout: Path,
    baseline: Baseline,
    redis_server: RedisServer,
    tmp_path: Path,
) -> None:
    """All gateways share a cache, as they do in a deployment."""
    flags = {"gateway": ["--redis-url", redis_server.url]}
    log = tmp_path / "log"
    own = lab_stack(log, **flags) if ages["gateway"] == "new" else checkout_stack(checkout, log, **flags)
    own.encoder_address = (stack if ages["encoder_service"] == "new" else earlier).encoder_address
    own.llm_address = (stack if ages["llm_service"] == "new" else earlier).llm_address
    with contextlib.ExitStack() as resources:
        resources.callback(own.stop)
        own.start("gateway")
        own.wait_ready(STARTUP_S)
        observed = observe(resources.enter_context(Client(own.url).http))
    expected = baseline.observed
    assert_alike(observed.answers, expected.answers)
    assert_alike(observed.streamed[1], expected.streamed[1])
    assert observed.streamed[0] == expected.streamed[0]
    assert observed.refusals == expected.refusals
    assert_alike(observed.pruners, expected.pruners)


@pytest.mark.parametrize("case", RECORDED_AGAIN)
def test_the_recordings_are_what_the_commit_does(baseline: Baseline, commit: str, case: str) -> None:
    recorded, again = Recordings.of(commit).read(case), baseline.recorded[case]
    assert again.body == recorded.body
    assert_alike(again.response, recorded.response)
    assert [call.method for call in again.calls] == [call.method for call in recorded.calls]
    assert again.cache.keys() == recorded.cache.keys()
