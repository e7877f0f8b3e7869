"""Times of the encoder: over a plain tower, of each pruner alone, and of a second question."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.checkpoints import full_size
from benchmarks.speed import (
    encoder_overhead,
    full_size_towers,
    prune,
    prune_report,
    second_question,
    timing,
)
from benchmarks.speed.full_size_towers import add_towers, plain_tower, subject
from benchmarks.speed.peak_memory import peak_bytes
from benchmarks.speed.pruner_inputs import grid_of, prunable, random_input
from encoder_service.pruners import PRUNERS

CPU = torch.device("cpu")


def run(command: Any, out: Path, *words: str) -> dict[str, Any]:
    assert command.main(["--smoke", "--device", "cpu", *words, "--out", str(out)]) == 0
    (file,) = out.glob("*.json")
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def test_sides_take_turns_and_every_round_begins_with_another() -> None:
    calls: list[str] = []
    sides = {name: lambda name=name: calls.append(name) for name in "abc"}
    args = argparse.Namespace(rounds=3, warmups=1, clock="wall")
    times = timing.interleaved(sides, CPU, args)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_ratio_is_taken_within_a_round() -> None:
    over = timing.ratio({"a": [1.0, 20.0, 3.0], "b": [1.0, 10.0, 1.0]}, "a", "b")
    assert (over.median, over.lowest, over.highest) == (2.0, 1.0, 3.0)
    assert timing.goal(1.05, 1.05) == "<= 1.05x, met"
    assert timing.goal(1.06, 1.05) == "<= 1.05x, missed"
    assert timing.goal(9.0, None) == ""


def test_the_encoder_is_compared_with_the_plain_tower(tmp_path: Path) -> None:
    result = run(encoder_overhead, tmp_path)
    assert [cell["batch"] for cell in result["cells"]] == [1, 2]
    assert set(result["cells"][0]["ratios"]) == {"fovea", "maps"}
    cell = result["cells"][0]
    cell["ratios"]["fovea"] = {"median": 1.04, "lowest": 1.0, "highest": 1.1}
    assert "1.040 [1.000, 1.100] | <= 1x, missed |" in encoder_overhead.markdown(result)
    for compiled, bound in ((False, "<= 1.05x, met"), (True, "<= 0.9x, missed")):
        on_gpu = result | {"device": "cuda", "compile": compiled, "cells": [cell | {"batch": 8}]}
        assert bound in encoder_overhead.markdown(on_gpu)


def test_qwen3_vl_is_compared_with_its_plain_tower(tmp_path: Path) -> None:
    result = run(encoder_overhead, tmp_path, "--model", "qwen3-vl-2b")
    assert set(result["cells"][0]["seconds"]) == {"fovea", "plain"}
    assert "Both run all layers and mergers." in encoder_overhead.markdown(result)


def test_a_compiled_tower_needs_a_service_that_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_size_towers, "LoadOptions", dataclasses.make_dataclass("LoadOptions", ["device"]))
    with pytest.raises(SystemExit, match="leave it out"):
        run(encoder_overhead, tmp_path, "--compile")


def test_the_full_shapes_are_those_of_the_published_checkpoint() -> None:
    published = full_size.MODELS["llava-1.5-7b"].config().vision_config
    parser = argparse.ArgumentParser()
    add_towers(parser, compiles=True)
    with torch.device("meta"):
        tower = plain_tower(parser.parse_args(["--device", "cpu"]), torch.device("meta"))
    assert tower.config.hidden_size == published.hidden_size == 1024
    assert tower.config.num_hidden_layers == published.num_hidden_layers == 24
    assert tower.embeddings.num_positions == 577
    assert tower.config._attn_implementation == "sdpa"


def test_weights_are_drawn_anew(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_towers(parser, compiles=True)
    model: Any = subject(parser.parse_args(["--device", "cpu", "--shapes", "tiny"]), CPU, tmp_path).model
    layer = model.vision_tower.vision_model.encoder.layers[0]
    assert 0.01 < layer.self_attn.q_proj.weight.std() < 0.03
    assert torch.equal(layer.layer_norm1.weight, torch.ones_like(layer.layer_norm1.weight))
    assert not layer.self_attn.q_proj.bias.any()


def test_peak_memory_counts_what_lives_at_one_time() -> None:
    ones = torch.ones(1000, 1000)

    def two_at_once() -> None:
        first = ones + 1
        second = first + 1
        del first
        second.add_(1)
        del second
        ones.clone()

    assert peak_bytes(two_at_once, CPU) == pytest.approx(2 * ones.nbytes, rel=0.01)


@pytest.mark.parametrize("pruner", prunable())
def test_random_inputs_can_be_pruned_and_do_not_change(pruner: str) -> None:
    inputs = [random_input(pruner, (4, 5), 6, device=CPU, dtype=torch.float32) for _ in range(2)]
    assert torch.equal(inputs[0].vision.hidden, inputs[1].vision.hidden)
    first, second = (PRUNERS[pruner].bind({}).prune(one) for one in inputs)
    assert torch.equal(first.features, second.features)


def test_grids_have_the_number_of_tokens() -> None:
    assert [grid_of(tokens) for tokens in (576, 2880, 16384, 7)] == [(24, 24), (48, 60), (128, 128), (1, 7)]


def test_each_pruner_is_measured_alone(tmp_path: Path) -> None:
    result = run(prune, tmp_path, "--pruners", "desap", "fovea", "cls")
    assert [cell["tokens"] for cell in result["cells"]] == [16, 32, 64]
    assert set(result["growth"]) == {"desap", "fovea", "cls"}
    assert all(cell["peak_bytes"]["desap"] > 0 for cell in result["cells"])
    result["growth"]["desap"] = {"time": 1.1, "memory": 2.0}
    shares = result["cells"][0]["shares"]
    shares["desap"] = {"median": 0.02, "lowest": 0.01, "highest": 0.04}
    shares["fovea"] = {"median": 0.2, "lowest": 0.2, "highest": 0.2}
    text = prune_report.markdown(result)
    assert "2.00 [1.00, 4.00] % | 1.10 | <= 3% of the tower, met; linear, met |" in text
    assert "<= 10% of the tower, missed" in text
    assert "2.00 | linear, missed |" in text


def test_growth_needs_two_numbers_of_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        prune.main(["--smoke", "--tokens", "16"])
    assert "two or more different numbers" in capsys.readouterr().err


def test_a_second_question_finds_the_features(tmp_path: Path) -> None:
    result = run(second_question, tmp_path)
    cell = result["cells"][0]
    assert cell["ratios"][", decoding included"]["median"] < 1
    cell["ratios"][""] = {"median": 0.2, "lowest": 0.1, "highest": 0.3}
    assert "0.200 [0.100, 0.300] | <= 0.25x, met |" in second_question.markdown(result)
