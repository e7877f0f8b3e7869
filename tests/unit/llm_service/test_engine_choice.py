"""`--engine auto`: which engine runs the model, and what the log says about it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from fovea.modeling.errors import CheckpointError
from llm_service.engine.choice import choose_engine
from llm_service.settings import LLMSettings
from llm_service.startup import load
from llm_service.vllm_plugin import ARCHITECTURES


def importable() -> None:
    """Stands for an import of vLLM that works."""


def missing() -> None:
    raise ImportError("No module named 'vllm'")


@pytest.mark.parametrize(
    ("family", "has_cuda", "flag", "import_vllm", "engine", "reason"),
    [
        ("qwen3_vl", True, None, importable, "vllm", "there are a CUDA device and vLLM"),
        ("llava", True, None, missing, "transformers", "vLLM cannot be imported (No module named 'vllm')"),
        ("llava", False, None, importable, "transformers", "the model is not on a CUDA device"),
        (
            "llava",
            True,
            "--quantization",
            importable,
            "transformers",
            "--quantization is set, which vLLM does not have",
        ),
        ("other", True, None, importable, "transformers", "vLLM does not serve the family 'other'"),
    ],
)
def test_vllm_is_chosen_where_it_can_run_and_nothing_needs_the_other(
    family: str, has_cuda: bool, flag: str | None, import_vllm: Any, engine: str, reason: str
) -> None:
    choice = choose_engine(family=family, has_cuda=has_cuda, transformers_only=flag, import_vllm=import_vllm)
    assert choice == (engine, reason)


def test_vllm_is_not_imported_where_it_cannot_run() -> None:
    def never() -> None:
        raise AssertionError("vLLM takes seconds to import")

    choice = choose_engine(family="llava", has_cuda=False, transformers_only=None, import_vllm=never)
    assert choice[0] == "transformers"


def test_a_family_that_vllm_does_not_serve_ends_the_start_with_one_sentence(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(ARCHITECTURES, "llava")
    with pytest.raises(
        CheckpointError, match=r"does not serve the family 'llava', only llava_next.*--engine transformers does$"
    ):
        load(LLMSettings(model=str(checkpoint), device="cpu", engine="vllm"))


def test_the_log_says_which_engine_and_why(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    chosen = load(LLMSettings(model=str(checkpoint), device="cpu", num_threads=1))
    assert "engine transformers: the model is not on a CUDA device" in caplog.text
    caplog.clear()
    named = load(LLMSettings(model=str(checkpoint), device="cpu", num_threads=1, engine="transformers"))
    assert "engine transformers" not in caplog.text
    assert chosen.settings_fingerprint == named.settings_fingerprint  # the same answers
