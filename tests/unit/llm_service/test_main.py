"""Start and shutdown of the service, with the signals of an orchestrator."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fovea.service import run, serve
from fovea.v1 import llm_pb2, llm_pb2_grpc
from llm_service.engine.transformers import TransformersEngine
from llm_service.server.servicer import LLMServicer
from llm_service.settings import LLMSettings
from llm_service.startup import load


class Port(logging.Handler):
    """Port of the service under test, read from its log."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.found = asyncio.get_running_loop().create_future()

    def emit(self, record):
        if match := re.search(r"on port (\d+)", record.getMessage()):
            self.found.set_result(int(match[1]))


@pytest.fixture
async def port():
    log, handler = logging.getLogger("fovea"), Port()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler.found
    log.removeHandler(handler)
    log.setLevel(level)


async def test_sigterm_lets_streams_finish_and_ends_with_status_0(checkpoint, port):
    settings = LLMSettings(model=str(checkpoint), listen="127.0.0.1:0", num_threads=1, device="cpu")
    running = asyncio.create_task(serve(settings, LLMServicer, load))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        status = await health.Check(health_pb2.HealthCheckRequest(service="fovea.v1.LLMService"))
        assert status.status == health_pb2.HealthCheckResponse.SERVING
        request = llm_pb2.GenerateRequest(input_ids=[1, 60], sampling=llm_pb2.SamplingParams(max_tokens=200))
        call = llm_pb2_grpc.LLMServiceStub(channel).Generate(request, timeout=60)
        messages = aiter(call)
        await anext(messages)
        os.kill(os.getpid(), signal.SIGTERM)
        *_, last = [message async for message in messages]
    assert last.done.completion_tokens == 200
    assert await running == 0


async def test_a_dead_engine_ends_streams_and_the_service_with_status_1(checkpoint, port, monkeypatch):
    """A step that raises past every guard ends the process, so that it can be restarted."""
    steps = iter(range(20))
    real = TransformersEngine.step

    def step(engine):
        if next(steps, None) is None:
            raise MemoryError
        real(engine)

    monkeypatch.setattr(TransformersEngine, "step", step)
    running = asyncio.create_task(
        serve(LLMSettings(model=str(checkpoint), listen="127.0.0.1:0", num_threads=1, device="cpu"), LLMServicer, load)
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await port}") as channel:
        request = llm_pb2.GenerateRequest(input_ids=[1, 60], sampling=llm_pb2.SamplingParams(max_tokens=200))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in llm_pb2_grpc.LLMServiceStub(channel).Generate(request, timeout=60):
                pass
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "has lost its engine" in caught.value.details()
    assert await running == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "/nowhere/at/all"}, "there is no checkpoint directory"),
        ({"max_model_len": 1000}, "max_model_len 1000 is more than the model's context of 256"),
    ],
)
def test_a_model_that_cannot_be_served_is_one_line_and_status_1(checkpoint, caplog, settings, message):
    options = {"model": str(checkpoint), "listen": "127.0.0.1:0", "num_threads": 1, "device": "cpu", **settings}
    assert run(LLMSettings(**options), LLMServicer, load) == 1
    (line,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert message in line.getMessage()
    assert line.exc_info is None


def test_a_wrong_setting_is_named_with_status_2(capsys):
    with pytest.raises(SystemExit) as caught:
        LLMSettings.from_command_line(["--model", "x", "--max-batch-size", "0", "--listen", "nonsense"])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert "--max-batch-size (LLM_MAX_BATCH_SIZE)" in message
    assert "--listen (LLM_LISTEN)" in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine-args", '{"tensor_parallel_size": 2}'], "give --engine vllm as well"),
        (["--engine", "vllm", "--engine-args", "{bad"], "--engine-args: a JSON object is accepted, such as"),
        (["--engine", "vllm", "--engine-args", "[1]"], "--engine-args: a JSON object is accepted, such as"),
        (["--engine", "vllm", "--quantization", "int8"], "vLLM has 'quantization' among --engine-args"),
        (["--quantization", "awq"], "accepted: 'none', 'int8' or 'nf4', which quantize at load. A checkpoint that is"),
        (["--quantization", "awq"], "(AWQ, GPTQ, FP8) needs --engine vllm (LLM_ENGINE=vllm)"),
        (["--engine", "vllm", "--attn-implementation", "eager"], "vLLM has 'attention_backend' among --engine-args"),
        (["--engine", "vllm", "--kv-cache-gib", "4"], "vLLM has 'gpu_memory_utilization' among --engine-args"),
    ],
)
def test_settings_of_the_other_engine_are_refused(capsys, flags, message):
    with pytest.raises(SystemExit):
        LLMSettings.from_command_line(["--model", "x", *flags])
    assert message in capsys.readouterr().err


def test_vllm_takes_its_arguments_as_json():
    flags = [
        "--model",
        "x",
        "--engine",
        "vllm",
        "--engine-args",
        '{"tensor_parallel_size": 2, "speculative_config": {}}',
    ]
    assert LLMSettings.from_command_line(flags).engine_args == {"tensor_parallel_size": 2, "speculative_config": {}}


def test_without_vllm_the_extra_is_named(checkpoint, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setitem(sys.modules, "vllm.engine.arg_utils", None)
    settings = LLMSettings(model=str(checkpoint), listen="127.0.0.1:0", device="cpu", engine="vllm")
    assert run(settings, LLMServicer, load) == 1
    assert "pip install 'fovea[vllm]'" in caplog.text


def test_every_setting_is_described(capsys):
    with pytest.raises(SystemExit):
        LLMSettings.from_command_line(["--help"])
    text = capsys.readouterr().out
    for name, field in LLMSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.description
