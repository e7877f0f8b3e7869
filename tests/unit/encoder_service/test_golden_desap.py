"""DeSAP against golden data of an independent implementation: every case, every switch, two precisions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from encoder_service.models.clip_text import ClipTextTower
from encoder_service.models.clip_vision import ClipVisionTower
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunedTokens, PrunerInput, View
from encoder_service.pruners.selection import select_by_two

GOLDEN = Path(__file__).parents[2] / "golden"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
CASES = [case for case in MANIFEST["cases"] if case["method"] == "desap"]
STATES = [case for case in MANIFEST["cases"] if case["method"] != "desap"]


@dataclass(frozen=True)
class Towers:
    precision: str
    vision: ClipVisionTower
    text: ClipTextTower
    pixel_values: torch.Tensor
    texts: dict[str, list[int]]


@pytest.fixture(scope="module", params=["float64", "float32"])
def towers(request: pytest.FixtureRequest) -> Towers:
    dtype = getattr(torch, request.param)
    clip = CLIPModel.from_pretrained(GOLDEN / "clip24", dtype=dtype).eval()
    with np.load(GOLDEN / "seed0/inputs.npz") as inputs:
        pixel_values = torch.from_numpy(inputs["pixel_values"][:1].astype(np.float64)).to(dtype)
        texts = {key.removeprefix("text_ids_"): inputs[key].tolist() for key in inputs if key.startswith("text_ids_")}
    vision = ClipVisionTower(clip.vision_model, clip.visual_projection)
    return Towers(request.param, vision, ClipTextTower(clip.text_model, clip.text_projection), pixel_values, texts)


@pytest.fixture(scope="module")
def features(towers: Towers) -> Any:
    """The picture with every view there is, computed once."""
    return towers.vision(towers.pixel_values, frozenset(View))[0]


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "seed0/desap.npz") as desap, np.load(GOLDEN / "seed0/states.npz") as states:
        return {**desap, **states}


def run(case: dict[str, Any], towers: Towers, features: Any) -> tuple[PrunedTokens, dict[str, Any]]:
    params = {key: value for key, value in case["params"].items() if key not in ("text", "budget", "with_llm")}
    params["fcma_cosines"] = "signed"  # the golden data takes the formula to the letter
    if "variant" in params:
        params["attn_variant"] = params.pop("variant")
    bound = PRUNERS["desap"].bind(params)
    (text,) = towers.text([towers.texts[case["params"]["text"]]], eos_attention=bound.needs.eos_attention)
    assert bound.needs.views <= features.views.keys()
    return bound.prune(PrunerInput(features, case["params"]["budget"], text=text)), params


def compare(got: torch.Tensor, want: np.ndarray, spec: dict[str, Any], precision: str) -> None:
    if want.dtype.kind in "iub":
        np.testing.assert_array_equal(got.numpy(), want)
    else:
        np.testing.assert_allclose(got.double().numpy(), want, rtol=0, atol=spec["tolerance"][precision])


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_desap_case(case: dict[str, Any], towers: Towers, features: Any, expected: dict[str, np.ndarray]) -> None:
    result, params = run(case, towers, features)
    arrays = {
        "kept_index": result.kept_index,
        "assign": result.merged_into,
        "features": result.features,
        "score_text": result.task_map,
        "score_saliency": result.saliency_map,
    }
    assert result.task_map is not None
    assert result.saliency_map is not None
    by_text, _ = select_by_two(
        result.task_map, result.saliency_map, case["params"]["budget"], params.get("task_share", 0.5)
    )
    arrays["kept_by_text"] = by_text
    compared = [name for name in case["arrays"] if not name.startswith("llm_")]
    assert set(compared) <= arrays.keys()
    for name in compared:
        compare(arrays[name], expected[f"{case['id']}/{name}"], case["arrays"][name], towers.precision)


@pytest.mark.parametrize("case", STATES, ids=[case["id"] for case in STATES])
def test_tower_states(case: dict[str, Any], towers: Towers, features: Any, expected: dict[str, np.ndarray]) -> None:
    if case["id"] == "encoder_states":
        got = {
            "x23": features.hidden,
            "cls_attention_22": features.views[View.SALIENCY_SECOND_LAST],
            "cls_attention_23": features.views[View.SALIENCY_LAST],
        }
    else:
        (text,) = towers.text([towers.texts[case["id"].removeprefix("text_")]])
        got = {"tokens": text.tokens}
        if len(text.eos) == 1:
            got["query"] = text.eos[0]
    for name, tensor in got.items():
        want = expected[f"{case['id']}/{name}"]
        compare(tensor, want[1:] if name == "x23" else want, case["arrays"][name], towers.precision)
