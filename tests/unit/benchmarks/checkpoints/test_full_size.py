"""Full-size checkpoints hold what a service needs, in the hub's names, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from benchmarks.checkpoints import full_size


@pytest.mark.parametrize(
    ("name", "service", "sample", "absent"),
    [
        ("llava-1.5-7b", "encoder", "vision_tower.vision_model.encoder.layers.23.mlp.fc2.weight", "language_model."),
        ("llava-1.5-7b", "llm", "language_model.model.layers.31.mlp.down_proj.weight", "vision_tower."),
        ("qwen2.5-vl-7b", "encoder", "visual.blocks.31.attn.qkv.weight", "model.layers."),
        ("qwen2.5-vl-7b", "llm", "model.layers.27.self_attn.q_proj.bias", "visual."),
        ("qwen3-vl-8b", "encoder", "model.visual.deepstack_merger_list.2.linear_fc2.weight", "lm_head."),
        ("qwen3-vl-8b", "llm", "model.language_model.layers.35.self_attn.q_norm.weight", "model.visual."),
    ],
)
def test_only_the_shards_of_one_service_exist(
    name: str, service: str, sample: str, absent: str, tmp_path: Path
) -> None:
    part, whole = full_size.write(tmp_path, name, service)
    assert 0 < part < whole
    there: set[str] = set()
    for shard in tmp_path.glob("*.safetensors"):
        with safe_open(shard, framework="pt") as file:
            there |= set(file.keys())
    assert sample in there
    assert not any(key.startswith(absent) for key in there)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert any(key.startswith(absent) for key in index["weight_map"])


def test_sizes_are_those_of_the_published_models(tmp_path: Path) -> None:
    _, llava = full_size.write(tmp_path / "llava", "llava-1.5-7b", "encoder")
    _, qwen = full_size.write(tmp_path / "qwen", "qwen2.5-vl-7b", "encoder")
    assert llava == pytest.approx(2 * 7.063e9, rel=0.001)
    assert qwen == pytest.approx(2 * 8.292e9, rel=0.001)
    _, small = full_size.write(tmp_path / "qwen-3b", "qwen2.5-vl-3b", "encoder")
    assert small == pytest.approx(2 * 3.755e9, rel=0.001)
    _, qwen3 = full_size.write(tmp_path / "qwen3", "qwen3-vl-8b", "encoder")
    _, small = full_size.write(tmp_path / "qwen3-2b", "qwen3-vl-2b", "encoder")
    assert qwen3 == pytest.approx(2 * 8.767e9, rel=0.001)
    assert small == pytest.approx(2 * 2.128e9, rel=0.001)
