"""Encoder-side methods against golden data of independent implementations, and the command that compares them."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.exactness.golden import __main__ as command
from benchmarks.exactness.golden import encoder_side
from benchmarks.exactness.golden.case import Context, GoldenCase, compare, load_cases
from encoder_service.models.clip_vision import ClipVisionTower
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunerInput, TowerFeatures
from encoder_service.pruners.tower_outputs import ALL_OUTPUTS

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[4] / "golden"
HAS_LLM = (GOLDEN / "llama32").is_dir()
CASES = [case for case in load_cases(GOLDEN) if case.method in encoder_side.METHODS]
FEW = ("visionzip_k64", "prumerge_plus_fixed_64", "holov_overflow_zero", "text_windows")


@pytest.fixture(scope="module", params=["float64", "float32"])
def context(request: pytest.FixtureRequest) -> Context:
    return Context(GOLDEN, getattr(torch, request.param))


def without_llm(case: GoldenCase) -> GoldenCase:
    """The case without its arrays of the language model."""
    return dataclasses.replace(
        case,
        params={**case.params, "with_llm": False},
        arrays={name: spec for name, spec in case.arrays.items() if not name.startswith("llm_")},
    )


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_case(case: GoldenCase, context: Context) -> None:
    if case.params.get("with_llm") and not HAS_LLM:
        case = without_llm(case)
    precision = str(context.dtype).removeprefix("torch.")
    with torch.inference_mode():
        worst = compare(case, encoder_side.METHODS[case.method](case, context), precision)
    assert worst.passed, worst


def test_there_are_cases_of_every_method() -> None:
    assert {case.method for case in CASES} == encoder_side.METHODS.keys()


@pytest.fixture(scope="module")
def vision() -> TowerFeatures:
    context = Context(GOLDEN)
    pixel_values = context.tensor(context.inputs(CASES[0])["pixel_values"][:1])
    tower = ClipVisionTower(context.clip.vision_model, context.clip.visual_projection)
    features: TowerFeatures = tower(pixel_values, ALL_OUTPUTS).at(0)
    return features


@pytest.mark.parametrize("keep", [192, 128, 64])
@pytest.mark.parametrize(
    ("pruner", "params", "case_id"),
    [
        ("visionzip", {}, "visionzip_k{}"),
        ("prumerge", {}, "prumerge_k{}"),
        ("prumerge", {"adaptive": True}, "prumerge_adaptive"),
        ("prumerge_plus", {}, "prumerge_plus_even_k{}"),
        ("prumerge_plus", {"adaptive": True}, "prumerge_plus_adaptive"),
        ("prumerge_plus", {"fidelity": True}, "prumerge_plus_fixed_{}"),
        ("holov", {}, "holov_k{}"),
        ("hired", {}, "hired_k{}"),
    ],
)
def test_the_pruners_that_users_choose_are_these_cases(
    pruner: str, params: dict[str, Any], case_id: str, keep: int, vision: TowerFeatures
) -> None:
    """A budget of ours means the schedule that the method's authors use for it."""
    (case,) = (case for case in CASES if case.id == case_id.format(keep))
    bound = PRUNERS[pruner].bind(params)
    seen = dataclasses.replace(
        vision, outputs={output_name: vision.outputs[output_name] for output_name in bound.requirements.outputs}
    )
    result = bound.prune(PrunerInput(seen, keep))
    np.testing.assert_array_equal(result.origins.numpy(), case.expected()["kept_index"])


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A directory of a few cases; its manifest may be edited."""
    (tmp_path / "clip24").symlink_to(GOLDEN / "clip24")
    (tmp_path / "projector.safetensors").symlink_to(GOLDEN / "projector.safetensors")
    # Another name than seed0, as no name is special.
    shutil.copytree(GOLDEN / "seed0", tmp_path / "seed7")
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    manifest["cases"] = [case for case in manifest["cases"] if case["id"] in FEW]
    for case in manifest["cases"]:
        case["file"] = case["file"].replace("seed0", "seed7")
        case["arrays"] = {name: spec for name, spec in case["arrays"].items() if not name.startswith("llm_")}
        case["params"].pop("with_llm", None)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def edit(golden: Path, case_id: str, **changes: Any) -> None:
    manifest = json.loads((golden / "manifest.json").read_text())
    case = next(case for case in manifest["cases"] if case["id"] == case_id)
    case.update(changes)
    (golden / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("flags", [[], ["--float32"]])
def test_the_command_says_pass_for_each_and_ends_with_0(
    flags: list[str], golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(golden), *flags]) == 0
    header, *rows, total = capsys.readouterr().out.splitlines()
    assert header.split() == ["case", "difference", "tolerance", "pass"]
    assert {row.split()[0]: row.split()[3] for row in rows} == dict.fromkeys(FEW, "pass")
    assert all(float(row.split()[1]) <= float(row.split()[2]) for row in rows)
    assert total.startswith("4 of 4 cases pass")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "visionzap"}, "no method 'visionzap'; known: adaptprune, desap"),
        ({"params": {"dominant": 54, "context": 10, "temperature": 2}}, "'temperature'"),
        ({"params": {"dominant": 54}}, "'context'"),
        ({"params": {"dominant": 53, "context": 11}}, "features"),
        ({"file": "seed7/holov.npz"}, "KeyError"),
    ],
)
def test_a_case_that_is_not_known_or_not_met_fails_alone(
    changes: dict[str, Any], message: str, golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(golden, "visionzip_k64", **changes)
    assert command.main([str(golden)]) == 1
    out = capsys.readouterr().out
    (row,) = [row for row in out.splitlines() if row.startswith("visionzip_k64")]
    assert "FAIL" in row
    assert message in row
    assert "3 of 4 cases pass" in out


def test_what_rounding_may_decide_is_not_judged_in_float32(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(golden, "text_windows", float32_decisive=False)
    assert command.main([str(golden), "--float32"]) == 0
    assert "3 of 4 cases pass in float32, 0 fail, 1 undecided" in capsys.readouterr().out


def test_a_directory_without_cases_is_no_success(golden: Path) -> None:
    (golden / "manifest.json").write_text('{"cases": []}')
    assert command.main([str(golden)]) == 1


def test_a_directory_without_a_manifest_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        command.main([str(tmp_path)])
    assert status.value.code == 2
    assert "manifest.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "got",
    [{}, {"a": np.zeros(2)}, {"a": np.zeros((1, 3))}, {"a": np.array([0.0, math.nan, 0.0])}, {"a": np.full(3, 1e-3)}],
)
def test_a_missing_array_another_shape_nan_and_a_difference_do_not_pass(got: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **{"case/a": np.zeros(3, dtype=np.float32)})
    spec = {"a": {"tolerance": {"float64": 1e-6, "float32": 1e-4}}}
    case = GoldenCase(tmp_path, "case", "visionzip", {}, "x.npz", spec)
    assert not compare(case, got, "float64").passed
    assert compare(case, {"a": np.full(3, 5e-7)}, "float64").passed
    assert compare(case, {"a": np.full(3, 5e-5)}, "float32").passed


def test_integers_must_be_equal(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **{"case/a": np.array([1, 2], dtype=np.int16)})
    case = GoldenCase(tmp_path, "case", "visionzip", {}, "x.npz", {"a": {}})
    assert compare(case, {"a": np.array([1, 2])}, "float64").passed
    assert not compare(case, {"a": np.array([1, 3])}, "float64").passed
