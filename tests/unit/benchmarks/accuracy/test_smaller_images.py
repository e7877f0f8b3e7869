"""The baselines of a smaller grid, and the benchmark that compares pruners with them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.accuracy import smaller_images
from benchmarks.accuracy.evaluation import shipped_system
from benchmarks.accuracy.smaller_grids import BASELINES, Grid, downsampled, encoded, grid_within, pooled
from benchmarks.accuracy.smaller_images_report import markdown
from benchmarks.accuracy.system import ImageQuestion
from benchmarks.harness.images import png
from encoder_service.models.llava import LlavaEncoder
from encoder_service.models.media_features import TowerInputs

WHOLE = (12, 12)


@pytest.mark.parametrize(
    ("keep", "grid"),
    [(1, (1, 1)), (8, (2, 4)), (13, (3, 4)), (16, (4, 4)), (32, (4, 8)), (48, (6, 8)), (143, (11, 12)), (144, WHOLE)],
)
def test_a_budget_has_the_grid_with_the_most_patches(keep: int, grid: Grid) -> None:
    assert grid_within(keep, WHOLE) == grid


@given(keep=st.integers(1, 1000))
def test_no_grid_exceeds_the_budget_or_stretches_the_image_by_more_than_two(keep: int) -> None:
    rows, columns = grid_within(keep, WHOLE)
    assert rows * columns <= keep
    assert rows <= columns <= min(2 * rows, WHOLE[1])


@pytest.fixture(scope="module")
def model() -> Iterator[LlavaEncoder]:
    system = shipped_system()
    assert isinstance(system.encoder_model, LlavaEncoder)
    yield system.encoder_model
    system.close()


def images(model: LlavaEncoder, count: int) -> list[TowerInputs]:
    noise = np.random.default_rng(0).integers(0, 255, (count, 20, 20, 3), dtype=np.uint8)
    return [model.media.image(Image.fromarray(pixels).resize((200, 150))) for pixels in noise]


def test_at_the_whole_grid_both_give_what_the_model_reads_unpruned(model: LlavaEncoder) -> None:
    inputs = images(model, 3)
    want = torch.cat([media.batch.hidden[list(media.rows)] for media in model.encode(inputs, frozenset())])
    for baseline in BASELINES.values():
        torch.testing.assert_close(baseline(model, inputs, WHOLE), want, rtol=1e-4, atol=1e-4)


def test_pooled_tokens_are_the_means_of_areas_in_raster_order(model: LlavaEncoder) -> None:
    inputs = images(model, 2)
    hidden = model.vision_tower(model.pixel_values(inputs), frozenset()).hidden
    got = pooled(model, inputs, (2, 4))
    for row in range(2):
        for column in range(4):
            area = [12 * r + c for r in range(6 * row, 6 * row + 6) for c in range(3 * column, 3 * column + 3)]
            torch.testing.assert_close(got[:, 4 * row + column], hidden[:, area].mean(dim=1), rtol=1e-4, atol=1e-5)


def test_a_token_of_a_smaller_image_shows_its_part_of_the_image(model: LlavaEncoder) -> None:
    """A change in one corner changes the token of that corner most."""
    plain = np.full((144, 144, 3), 120, np.uint8)
    for index, (top, left) in enumerate(((0, 0), (0, 108), (108, 0), (108, 108))):
        changed = plain.copy()
        changed[top : top + 36, left : left + 36] = (220, 20, 20)
        inputs = [model.media.image(Image.fromarray(pixels)) for pixels in (plain, changed)]
        before, after = downsampled(model, inputs, (4, 4))
        assert int((after - before).norm(dim=-1).argmax()) == (0, 3, 12, 15)[index]


def test_questions_about_one_image_share_its_tokens(model: LlavaEncoder) -> None:
    first, second = (png(Image.fromarray(np.full((20, 20, 3), level, np.uint8))) for level in (10, 200))
    asked = [ImageQuestion(first, "a"), ImageQuestion(second, "b"), ImageQuestion(first, "c")]
    for baseline in BASELINES.values():
        media = encoded(model, baseline, 8, asked)
        assert media[0] is media[2]
        assert not np.array_equal(media[0].features, media[1].features)
        for of_image in media:
            assert of_image.features.shape == (8, model.hidden_size)
            assert (of_image.layout.rows, of_image.layout.columns) == (2, 4)
            assert of_image.positions.tolist() == list(range(8))


@pytest.mark.slow
def test_a_small_run_writes_paired_tables_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--scenes", "2", "--splits", "easy", "--budgets", "1/9", "--work", str(tmp_path / "work")]
    methods = ["--methods", "uniform", "pooling"]
    assert smaller_images.main([*options, *methods, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "smaller_images.json").read_text())
    rows = {row["method"]: row for row in result["splits"]["easy"]["rows"]}
    assert list(rows) == ["none", "uniform", "pooling", "cdpruner", "downsample"]
    assert [row["visual_tokens"] for row in rows.values()] == [144, 16, 16, 16, 16]
    means = {name: row["groups"]["all"] for name, row in rows.items()}
    for name in ("uniform", "pooling", "cdpruner"):
        difference = means[name]["score"]["mean"] - means["downsample"]["score"]["mean"]
        assert math.isclose(means[name]["minus_downsample"]["mean"], difference, abs_tol=1e-5)
    assert markdown(result) == (tmp_path / "smaller_images.md").read_text()
    assert "cdpruner 1/9" in capsys.readouterr().err

    assert smaller_images.main([*options, *methods, "--out", str(tmp_path / "again")]) == 0
    assert capsys.readouterr().err == ""
    again = json.loads((tmp_path / "again" / "smaller_images.json").read_text())
    assert again["splits"] == result["splits"]
