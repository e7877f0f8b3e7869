"""Operations counted against the figures that the papers print, for LLaVA-1.5-7B's shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPModel, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from benchmarks.speed import flops
from benchmarks.speed.flops import left_after, llm_side, parts
from benchmarks.speed.operations import Decoder, TextTower, VisionTower, fcma
from encoder_service.models.clip_text import ClipTextTower
from encoder_service.models.clip_vision import ClipVisionTower
from encoder_service.pruners import PRUNERS
from fovea.checkpoints.shipped import shipped_checkpoint

T = 1e12


@pytest.mark.parametrize(
    ("tokens", "tera"), [(576, 3.817), (192, 1.253), (128, 0.833), (64, 0.4155), (2880, 20.83), (320, 2.10)]
)
def test_a_prefill_costs_what_the_paper_says(tokens: int, tera: float) -> None:
    assert Decoder().prefill([tokens] * 32) / T == pytest.approx(tera, abs=0.005 if tokens in (320, 2880) else 0.0005)


def test_table_6_to_its_digits() -> None:
    unpruned, pruned = (Decoder().prefill([tokens] * 32) / T for tokens in (576, 64))
    assert (round(unpruned, 2), round(pruned, 2), round(unpruned - pruned, 1)) == (3.82, 0.42, 3.4)


@pytest.mark.parametrize(
    ("name", "counting", "keep", "tera"),
    [
        ("sparsevlm", "own", 192, 1.353),
        ("sparsevlm", "own", 128, 0.954),
        ("sparsevlm", "own", 64, 0.541),
        ("pyramiddrop", "own", 64, 0.414),
        ("v2drop", "own", 192, 1.273),
        ("v2drop", "own", 128, 0.860),
        ("v2drop", "own", 64, 0.440),
        ("fastv", "own", 288, 2.007),
        ("fastv", "own", 144, 1.118),
        ("fastv", "average", 64, 0.421),
        ("adaptprune", "own", 57, 0.585),
    ],
)
def test_methods_inside_the_language_model_by_their_own_schedules(
    name: str, counting: str, keep: int, tera: float
) -> None:
    counts = llm_side(name, counting, keep, 576, 32)
    assert counts is not None
    assert Decoder().prefill(counts) / T == pytest.approx(tera, abs=0.0005)


def test_pyramiddrops_first_schedule() -> None:
    counts = [count for count in (576, 288, 144, 72) for _ in range(8)]
    assert Decoder().prefill(counts) / T == pytest.approx(1.777, abs=0.0005)


@pytest.mark.parametrize(("keep", "processed", "after"), [(192, 206.5, 192.0), (128, 145.4, 128.6), (64, 82.25, 64.8)])
def test_the_two_countings_differ_by_one_layer_a_prune(keep: int, processed: float, after: float) -> None:
    counts = llm_side("sparsevlm", "own", keep, 576, 32)
    assert counts is not None
    assert sum(counts) / 32 == pytest.approx(processed, abs=0.06)
    assert sum(left_after(counts)) / 32 == pytest.approx(after, abs=0.06)


def test_an_average_below_the_unpruned_layers_is_out_of_reach() -> None:
    assert llm_side("fastv", "average", 20, 576, 32) is None


def test_fcma_is_half_of_what_the_paper_says_as_it_counts_twice_there() -> None:
    assert 2 * fcma(576, 30, 768) == 27_472_896


def test_desap_spends_less_in_the_last_layer_than_transformers_does() -> None:
    whole = parts(Decoder(), VisionTower(), TextTower(), None, words=30, transformers=True)
    desap = parts(Decoder(), VisionTower(), TextTower(), 64, words=30)
    assert whole["the last layer, which it does not read"] == VisionTower().last_layer()
    spent = sum(cost for name, cost in desap.items() if "last layer" in name or "joint space" in name)
    assert 0 < spent < VisionTower().last_layer() - 0.8 * VisionTower().last_ffn()
    assert sum(desap.values()) < sum(whole.values())


def _counted(run: Callable[[], object]) -> int:
    """Multiply-adds of what `run` does, as torch counts them, which it can for one attention kernel only."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops() // 2


def test_formulas_agree_with_what_torch_counts_in_a_language_model() -> None:
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).model.eval()
    counted = _counted(lambda: model(inputs_embeds=torch.randn(1, 20, 48)))
    rotary = counted - Decoder.of(config).prefill([20] * 3)
    assert 0 <= rotary <= 20 * 48  # the table of angles is a product too


def test_formulas_agree_with_what_torch_counts_in_clip() -> None:
    config = CLIPConfig.from_pretrained(shipped_checkpoint("clip"))
    clip = CLIPModel(config).eval()
    vision, text = VisionTower.of(config.vision_config), TextTower.of(config)
    image = torch.randn(1, 3, vision.image_size, vision.image_size)
    whole = CLIPVisionModel(config.vision_config).eval()
    assert _counted(lambda: whole(image)) == vision.up_to_the_last_layer() + vision.last_layer()

    tower = ClipVisionTower(whole, clip.visual_projection)
    outputs = PRUNERS["desap"].bind({}).requirements.outputs
    spent = vision.decoupled_branch() + vision.joint_projection(text.joint_size) + vision.cls_attention()
    assert _counted(lambda: tower(image, outputs)) == vision.up_to_the_last_layer() + spent

    words = ClipTextTower(clip.text_model, clip.text_projection)
    assert _counted(lambda: words([list(range(9))])) == text.whole(9)


def test_a_run_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert flops.main(["--out", str(tmp_path)]) == 0
    report = (tmp_path / "flops.md").read_text()
    assert capsys.readouterr().out == report + "\n"
    assert "| none |  | 3.817 | 3.817 | 3.817 | 20.825 |" in report
    assert "| sparsevlm | own | 1.353 / 1.257 |" in report
    assert "2.747e+07" in report
    rows = {(row["method"], row["budget"]): row for row in json.loads((tmp_path / "flops.json").read_text())["rows"]}
    assert rows["fastv", "own"]["cells"][2]["processed"]["tokens_by_layer"] == [576] * 2 + [64] * 30
    assert rows["prumerge_plus, fidelity", "its grid"]["cells"][0]["after"]["average"] == 193


def test_the_shape_of_a_checkpoint(tmp_path: Path) -> None:
    model, clip = str(shipped_checkpoint("llava")), str(shipped_checkpoint("clip"))
    assert flops.main(["--model", model, "--text-tower", clip, "--tiles", "1", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "flops.json").read_text())
    assert result["language_model"] == {
        "hidden_size": 160,
        "intermediate_size": 320,
        "num_layers": 8,
        "key_value_size": 160,
    }
    assert [setting["label"] for setting in result["settings"]] == ["48 of 144", "32 of 144", "16 of 144"]
    # At so few layers an average of 16 is below what the layers before the first prune make.
    cells = {(row["method"], row["budget"]): row["cells"] for row in result["rows"]}
    assert cells["fastv", "average"][2] is None
    assert "MFLOPs" in (tmp_path / "flops.md").read_text()


def test_a_shape_by_hand(tmp_path: Path) -> None:
    shape = ["--hidden-size", "10", "--intermediate-size", "20", "--layers", "4", "--tokens", "100"]
    assert flops.main([*shape, "--budgets", "30", "--tiles", "1", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "flops.json").read_text())
    assert result["rows"][0]["cells"][0]["processed"]["flops"] == 4 * (4 * 10_000 + 2 * 100_000 + 3 * 20_000)
    assert result["image"] is None  # the tower of 100 tokens is unknown


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--layers", "0"], "at least 1"),
        (["--budgets", "577"], "1 to 576"),
        (["--model", "lab", "--layers", "3"], "leave --hidden-size"),
        (["--model", "docs"], "no config.json"),
        (["--text-tower", str(shipped_checkpoint("llava"))], "accepted: 'clip'"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as status:
        flops.main(argv)
    assert status.value.code == 2
    assert message in capsys.readouterr().err
