"""`--engine auto`: which engine runs the model, and what the log says about it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from llm_service.engine.choice import choose_engine
from llm_service.settings import LLMSettings
from llm_service.startup import load


def importable() -> None:
    """Stands for an import of vLLM that works."""


def missing() -> None:
    raise ImportError("No module named 'vllm'")


@pytest.mark.parametrize(
    ("has_cuda", "flag", "import_vllm", "engine", "reason"),
    [
        (True, None, importable, "vllm", "there are a CUDA device and vLLM"),
        (True, None, missing, "transformers", "vLLM cannot be imported (No module named 'vllm')"),
        (False, None, importable, "transformers", "the model is not on a CUDA device"),
        (True, "--quantization", importable, "transformers", "--quantization is set, which vLLM does not have"),
    ],
)
def test_vllm_is_chosen_where_it_can_run_and_nothing_needs_the_other(
    has_cuda: bool, flag: str | None, import_vllm: object, engine: str, reason: str
) -> None:
    choice = choose_engine(has_cuda=has_cuda, transformers_only=flag, import_vllm=import_vllm)  # type: ignore[arg-type]
    assert choice == (engine, reason)


def test_vllm_is_not_imported_where_it_cannot_run() -> None:
    def never() -> None:
        raise AssertionError("vLLM takes seconds to import")

    assert choose_engine(has_cuda=False, transformers_only=None, import_vllm=never)[0] == "transformers"


def test_the_log_says_which_engine_and_why(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    chosen = load(LLMSettings(model=str(checkpoint), device="cpu", num_threads=1))
    assert "engine transformers: the model is not on a CUDA device" in caplog.text
    caplog.clear()
    named = load(LLMSettings(model=str(checkpoint), device="cpu", num_threads=1, engine="transformers"))
    assert "engine transformers" not in caplog.text
    assert chosen.settings_fingerprint == named.settings_fingerprint  # the same answers
