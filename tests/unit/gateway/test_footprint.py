"""Footprint of the gateway's process on the shipped model: packages that it imports, and its resident memory."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest

from fovea.checkpoints.shipped import shipped_checkpoint

pytestmark = pytest.mark.slow

NOT_NEEDED = {
    *("torch", "transformers", "vllm", "safetensors", "sympy", "scipy", "pandas", "matplotlib", "av", "lab"),
    *("redis", "huggingface_hub"),  # only with --redis-url, and for a checkpoint by the id of a hub
    *("encoder_service", "llm_service", "benchmarks"),
}
MAX_MODULES = 1200
MAX_RESIDENT_BYTES = 150e6


@dataclass(frozen=True)
class Started:
    """A gateway that serves, and the modules that it has imported."""

    process: psutil.Process
    modules: frozenset[str]


@pytest.fixture(scope="module")
def started() -> Iterator[Started]:
    words = ["--model", str(shipped_checkpoint("llava")), "--text-tower", str(shipped_checkpoint("clip"))]
    command = [sys.executable, "-X", "importtime", "-m", "gateway", *words, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        modules = set()
        try:
            for line in process.stderr:
                if imported := re.fullmatch(r"import time:[\d |]+\|\s+([\w.]+)\n", line):
                    modules.add(imported[1])
                elif re.search(r"http://127\.0\.0\.1:\d+", line):
                    break
            else:
                pytest.fail("the gateway has ended")
            yield Started(psutil.Process(process.pid), frozenset(modules))
        finally:
            process.terminate()


def test_a_running_gateway_has_imported_nothing_that_only_other_settings_or_services_need(started: Started) -> None:
    assert {"gateway.app", "fastapi", "grpc", "tokenizers"} <= started.modules
    assert not NOT_NEEDED & {module.partition(".")[0] for module in started.modules}
    assert not {module for module in started.modules if module.startswith("opentelemetry.sdk")}, "--otlp-endpoint"


def test_a_gateway_imports_a_bounded_number_of_modules(started: Started) -> None:
    assert len(started.modules) <= MAX_MODULES


def test_a_gateway_takes_less_than_150_mb(started: Started) -> None:
    assert started.process.memory_info().rss < MAX_RESIDENT_BYTES
