"""The three services as processes, the LLM service with `--engine vllm`, on the small world's checkpoint."""

from __future__ import annotations

import signal

import psutil
import pytest

from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.processes.stack import Stack, free_port
from lab.questions import evaluation_questions, score
from tests.e2e.conftest import Client, png
from tests.lab_stack import ENVIRONMENT

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


def test_answers_are_right(client):
    """The model answers 98 of 100 such questions correctly."""
    questions = evaluation_questions("easy", SEED, NUM_SCENES)
    scores = [
        score(question, client.ask(png(question), question.text, pruner="none")["answer"]) for question in questions
    ]
    assert len(scores) > 30
    assert sum(scores) >= 0.9 * len(scores)


def test_the_error_for_pruning_inside_the_model_names_the_other_engine(client):
    question = evaluation_questions("easy", SEED, 1)[0]
    fields = {"llm_pruner": {"name": "fastv", "keep_tokens": 8}}
    response = client.post(png(question), question.text, **fields)
    assert response.status_code == 422
    assert "--engine transformers" in response.text


def test_a_dead_engine_core_ends_the_service_and_a_killed_service_ends_the_engine_core(stack, client):
    def restart():
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

    service = restart()
    assert client.ask(png(question), "What is new?", pruner="none")["answer"]
    family = psutil.Process(service.pid).children(recursive=True)
    assert any("EngineCore" in process.name() for process in family)
    service.kill()
    service.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    restart()
