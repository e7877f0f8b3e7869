"""Prefills by their number of visual tokens."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest
import torch

from benchmarks.checkpoints.in_memory import language_model, llama_config
from benchmarks.speed import prefill
from llm_service.engine.transformers import TransformersEngine

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("prefill")
    assert prefill.main(["--smoke", "--device", "cpu", "--out", str(out)]) == 0
    found: dict[str, Any] = json.loads((out / "prefill_cpu.json").read_text())
    return found


def test_prefills_of_all_sizes_are_compared(result: dict[str, Any]) -> None:
    assert [cell["rows"] for cell in result["cells"]] == [1, 2]
    for cell in result["cells"]:
        assert set(cell["rounds"]) == {"16", "4", "8"}
        assert all(len(times) == 2 and min(times) > 0 for times in cell["rounds"].values())
        assert set(cell["ratios"]) == {"4", "8"}
    text = prefill.markdown(result)
    assert "| 2 | 16 | 40 |" in text
    assert "x, m" not in text, "small layers have no goal"


def test_goals_are_of_the_full_width(result: dict[str, Any]) -> None:
    spread = {"median": 4.6, "lowest": 4.5, "highest": 4.7}
    cell = {"rows": 1, "seconds": {"576": spread, "64": spread, "128": spread}, "ratios": {"64": spread, "128": spread}}
    full = result | {"width": 4096, "unpruned": 576, "text": 60, "cells": [cell]}
    assert "| 4.60 [4.50, 4.70] | >= 4.5x, met |" in prefill.markdown(full)
    gpu = prefill.markdown(full | {"device": "cuda", "cells": [cell, cell | {"rows": 16}]})
    assert ">= 2.1x, met" in gpu
    assert ">= 4.7x, missed" in gpu
    assert gpu.count("|  |\n") == 4, "576 and 128 tokens have no goal"


def test_there_are_as_many_layers_as_the_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    args = argparse.Namespace(width=4096, rows=[1, 16], text=60, unpruned=576, visual=[64])
    layer = 202_375_168 + 16 * 637 * 2 * 4096  # numbers of the weights, and of keys and values

    def layers(free: float, device: str = "cuda") -> int:
        monkeypatch.setattr(prefill, "_free_bytes", lambda device: int(free * 2 * layer))
        return prefill._most_layers(args, torch.device(device), torch.bfloat16)

    assert [layers(free) for free in (0, 1.5, 7.01, 100)] == [1, 1, 7, 32]
    assert layers(100, "cpu") == 2


def test_a_prefill_that_fails_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(engine: TransformersEngine) -> None:
        engine._fail_all(engine._waiting.pop(8), "has no memory")

    monkeypatch.setattr(TransformersEngine, "step", fail)
    with pytest.raises(RuntimeError, match="a prefill failed"):
        prefill.main(["--smoke", "--device", "cpu"])


def test_the_model_is_llamas_in_the_shapes_of_the_published_one() -> None:
    published = llama_config(32, 32064)
    assert (published.hidden_size, published.intermediate_size, published.num_attention_heads) == (4096, 11008, 32)
    model = language_model(llama_config(2, 100, width=256), CPU, torch.float32)
    layer = model.causal_lm.model.layers[0]
    assert 0.01 < layer.self_attn.q_proj.weight.std() < 0.03
    assert torch.equal(layer.input_layernorm.weight, torch.ones(256))
    assert model.causal_lm.model.rotary_emb.inv_freq[0] == 1
