"""Random checkpoints that transformers and the services read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from benchmarks.checkpoints import random_llava
from benchmarks.checkpoints.random_llava import SIZES, Size, num_parameters, provide
from encoder_service import models as towers
from encoder_service.models.base import LoadOptions
from llm_service.models import load_model


def test_the_unsplit_model_and_both_services_read_all_tensors(tmp_path: Path) -> None:
    checkpoint = provide(tmp_path, "tiny")
    unsplit: Any
    unsplit, info = LlavaForConditionalGeneration.from_pretrained(
        checkpoint.model, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    language_model = unsplit.model.language_model
    llm: Any = load_model(checkpoint.model, device=torch.device("cpu"), dtype="auto", attn_implementation="sdpa")
    llm_weights, weights = (
        layers[1].self_attn.q_proj.weight for layers in (llm.causal_lm.model.layers, language_model.layers)
    )
    assert torch.equal(llm_weights, weights)
    assert 0.015 < weights.std() < 0.025
    assert len(weights.unique(dim=0)) == len(weights)
    assert torch.equal(language_model.norm.weight, torch.ones(128))
    assert not unsplit.lm_head.weight[2].any(), "an answer would end early"
    tower = towers.load(str(checkpoint.model), LoadOptions(text_tower=str(checkpoint.text_tower), device="cpu"))
    assert tower.hidden_size == 64


def test_a_checkpoint_is_written_once_and_one_that_was_cut_short_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "tiny.part" / "llava" / "model-00009.safetensors"
    broken.parent.mkdir(parents=True)
    broken.touch()
    checkpoint = provide(tmp_path, "tiny")
    assert not (checkpoint.model / broken.name).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    monkeypatch.setattr(random_llava, "_write_llava", lambda folder, size: pytest.fail("written again"))
    assert provide(tmp_path, "tiny") == checkpoint


def test_large_checkpoints_are_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_llava, "_SHARD_BYTES", 2**17)
    model = provide(tmp_path, "tiny").model
    assert len(list(model.glob("*.safetensors"))) > 3
    load_model(model, device=torch.device("cpu"), dtype="auto", attn_implementation="sdpa")


def test_the_largest_size_is_that_of_the_published_model() -> None:
    assert SIZES["7b"] == Size(32, 4096, 24, 1024, 12, 768, 336, 32064)
    counted = num_parameters("7b")
    assert counted["language_model"] == pytest.approx(6.739e9, rel=0.001)
    assert counted["vision_tower"] == pytest.approx(303.5e6, rel=0.001)
