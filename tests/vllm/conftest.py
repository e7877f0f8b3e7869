"""Tests that need vLLM, in an environment of its own (`make test-vllm`). Without vLLM none is collected."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path

import pytest

_HERE = Path(__file__).parent

collect_ignore_glob: list[str] = []

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; otherwise half of the machine's memory
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # two workers on one core otherwise refuse to start
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings are errors in these tests, but vLLM and torch emit some
        from vllm import LLM  # noqa: F401  # vLLM imports its modules lazily, with their warnings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.filterwarnings("ignore"))
