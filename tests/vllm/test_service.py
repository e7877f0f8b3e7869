"""The three services as processes, the LLM service with `--engine vllm`, on the small world's checkpoint."""

from __future__ import annotations

import signal

import psutil
import pytest

from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.processes.stack import Stack, free_port
from lab.questions import evaluation_questions, score
from tests.e2e.conftest import ENVIRONMENT, Client, png

pytestmark = pytest.mark.timeout(1800)

STARTUP_S = 600
NUM_SCENES = 6
SEED = 77


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with Stack(
        str(shipped_checkpoint("llava")),
        str(shipped_checkpoint("clip")),
        listen=f"127.0.0.1:{free_port()}",
        flags={
            "llm_service": ["--engine", "vllm", "--engine-args", '{"enforce_eager": true}', "--dtype", "float32"],
            "gateway": ["--wire-dtype", "float32"],
        },
        environment=ENVIRONMENT,
        log_to=tmp_path_factory.mktemp("stack") / "log",
    ) as stack:
        stack.wait_ready(STARTUP_S)
        yield stack


@pytest.fixture(scope="module")
def client(stack):
    with (client := Client(stack.url)).http:
        yield client


def test_it_answers_right(client):
    """The model is right 98 times of 100 on such questions."""
    questions = evaluation_questions("easy", SEED, NUM_SCENES)
    scores = [score(one, client.ask(png(one), one.text, pruner="none")["answer"]) for one in questions]
    assert len(scores) > 30
    assert sum(scores) >= 0.9 * len(scores)


def test_pruning_inside_the_model_is_refused_with_the_engine_that_can(client):
    question = evaluation_questions("easy", SEED, 1)[0]
    asked = {"llm_pruner": {"name": "fastv", "keep_tokens": 8}}
    response = client.post(png(question), question.text, **asked)
    assert response.status_code == 422
    assert "--engine transformers" in response.text


def test_without_its_engine_core_the_service_ends_and_with_it_ends_the_engine_core(stack, client):
    def start_over():
        stack.processes.pop("llm_service")
        stack.start("llm_service")
        stack.wait_ready(STARTUP_S)
        return stack.processes["llm_service"]

    question = evaluation_questions("easy", SEED, 1)[0]
    service = stack.processes["llm_service"]
    family = psutil.Process(service.pid).children(recursive=True)
    next(process for process in family if "EngineCore" in process.name()).send_signal(signal.SIGKILL)
    assert service.wait(60) == 1
    assert client.post(png(question), "What is new?", pruner="none").status_code == 503

    service = start_over()
    assert client.ask(png(question), "What is new?", pruner="none")["answer"]
    family = psutil.Process(service.pid).children(recursive=True)
    assert any("EngineCore" in process.name() for process in family)
    service.kill()
    service.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    start_over()
