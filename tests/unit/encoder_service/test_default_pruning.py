"""Pruner and budget of requests that name none: settings, the file beside the checkpoint, the paper's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encoder_service.server.default_pruning import FILE, default_pruning, find_recommendation
from encoder_service.server.requests import check_recommendation, read_request
from encoder_service.server.responses import describe
from encoder_service.settings import EncoderSettings
from encoder_service.startup import load
from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.modeling.errors import CheckpointError
from fovea.v1 import encoder_pb2

RECOMMENDED = {"pruner": "uniform", "keep_ratio": 0.5, "measured": "on a test"}


@pytest.fixture
def recommend(tmp_path: Path) -> Callable[[object], str]:
    """Writes the file of a checkpoint: an object as JSON, or bytes; returns the checkpoint."""

    def write(content: object) -> str:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / FILE).write_bytes(data)
        return str(tmp_path)

    return write


@pytest.mark.parametrize(
    ("flags", "pruner", "keep_ratio"),
    [
        ({}, "uniform", 0.5),
        ({"pruner": "uniform"}, "uniform", 0.5),
        ({"keep_ratio": 0.25}, "uniform", 0.25),
        ({"pruner": "cls"}, "cls", 0.111),  # the recommended budget was measured with another pruner
        ({"pruner": "desap", "keep_ratio": 0.25}, "desap", 0.25),
    ],
)
def test_what_is_set_wins_over_the_recommendation(
    recommend: Callable[[object], str], flags: dict[str, Any], pruner: str, keep_ratio: float
) -> None:
    recommended = find_recommendation(recommend(RECOMMENDED), None)
    chosen = default_pruning(EncoderSettings(model="m", **flags), recommended)
    assert (chosen.pruner, chosen.keep_ratio) == (pruner, keep_ratio)
    assert (FILE in str(chosen)) == (not flags)


def test_a_checkpoint_without_the_file_gets_desap_at_a_ninth(tmp_path: Path) -> None:
    assert find_recommendation(str(tmp_path), None) is None
    chosen = default_pruning(EncoderSettings(model="m"))
    assert (chosen.pruner, chosen.keep_ratio) == ("desap", 0.111)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"[" * 60_000, "is not JSON"),
        (b" " * 70_000, "has more than 65,536 bytes"),
        ([], "pruner, keep_ratio, measured"),
        ({"pruner": "cls"}, "pruner, keep_ratio, measured"),
        ({**RECOMMENDED, "keep_tokens": 3}, "pruner, keep_ratio, measured"),
        ({**RECOMMENDED, "pruner": "magic"}, "'magic'; accepted: none, desap"),
        ({**RECOMMENDED, "pruner": ["cls"]}, "pruner has a value of another type"),
        ({**RECOMMENDED, "keep_ratio": True}, "keep_ratio has a value of another type"),
        ({**RECOMMENDED, "keep_ratio": 1.5}, "not in (0, 1]"),
    ],
)
def test_a_file_that_cannot_be_used_stops_the_service(
    recommend: Callable[[object], str], content: object, message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        find_recommendation(recommend(content), None)
    assert message in str(caught.value)
    assert FILE in str(caught.value)


def test_the_line_of_the_start_has_no_budget_where_all_tokens_are_kept() -> None:
    settings = EncoderSettings(model="m", pruner="none")
    assert str(default_pruning(settings)) == "pruner none (all visual tokens) by default (--pruner, --keep-ratio)"


@pytest.mark.slow
def test_the_service_reports_uses_and_logs_what_the_checkpoint_recommends(checkpoints: Any, tmp_path: Path) -> None:
    model = shutil.copytree(checkpoints.hub, tmp_path / "model")
    settings = EncoderSettings(model=str(model), text_tower=str(checkpoints.clip), device="cpu")
    before = load(settings)
    (model / FILE).write_text(json.dumps(RECOMMENDED))
    served = load(settings)
    assert "pruner uniform and keep_ratio 0.5 by default (recommended by fovea.json" in str(served)
    info = describe(served.model, settings, served.basis, served.pruning)
    assert (info.default_pruner, info.default_keep_ratio) == ("uniform", 0.5)
    request = encoder_pb2.EncodeRequest(images=[b"x"])
    read = read_request(request, served.model, settings, served.basis, served.pruning)
    assert (read.pruner.name, read.budget.keep_ratio) == ("uniform", 0.5)
    # Weights are the same, so other caches that name pruner and budget stay valid.
    assert served.model.fingerprint == before.model.fingerprint


def test_a_recommendation_needs_what_the_model_computes(
    recommend: Callable[[object], str], make_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_engine().model
    recommended = find_recommendation(recommend({**RECOMMENDED, "pruner": "cls"}), None)
    assert recommended is not None
    check_recommendation(recommended, model)
    monkeypatch.setattr(type(model), "outputs", frozenset())
    with pytest.raises(CheckpointError, match="pruner cls requires features"):
        check_recommendation(recommended, model)


def test_the_shipped_model_recommends_fovea_with_a_third() -> None:
    recommended = find_recommendation(str(shipped_checkpoint("llava")), None)
    assert recommended is not None
    assert (recommended.pruner, round(recommended.keep_ratio * 144)) == ("fovea", 48)
