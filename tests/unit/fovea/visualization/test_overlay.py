"""Drawings of kept, merged and dropped patches, and of heat maps."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fovea.visualization.colors import token_colors
from fovea.visualization.overlay import crop_to_grid, draw_heatmap, draw_patches

GRID = (3, 4)


def rgb_image(shape: tuple[int, int] = (90, 120)) -> Image.Image:
    """Every pixel coloured, so that grey can only come from the drawing."""
    pixels = np.random.default_rng(0).integers(0, 60, (*shape, 3)).astype(np.uint8)
    pixels[..., 0] += 180
    return Image.fromarray(pixels)


def patches(drawing: Image.Image, grid: tuple[int, int] = GRID) -> np.ndarray:
    """[N, cell, cell, 3]"""
    rows, columns = grid
    cell = drawing.width // columns
    assert drawing.size == (columns * cell, rows * cell)
    cells = np.asarray(drawing, np.int64).reshape(rows, cell, columns, cell, 3).swapaxes(1, 2)
    return cells.reshape(rows * columns, cell, cell, 3)


def grey(cells: np.ndarray) -> list[int]:
    """Patches without any colour."""
    return np.flatnonzero((np.ptp(cells, axis=-1) == 0).all(axis=(1, 2))).tolist()


def test_exactly_the_dropped_patches_are_grey() -> None:
    merged_into = [0, 0, -1, 0, 1, 1, -1, -1, 0, 1, -1, 0]
    seen = crop_to_grid(rgb_image(), GRID, 400)
    assert grey(patches(draw_patches(seen, GRID, [3, 4], merged_into))) == [2, 6, 7, 10]


def test_a_kept_patch_is_framed_and_a_merged_one_has_its_tint() -> None:
    merged_into = [0] * 6 + [1] * 6
    seen = crop_to_grid(rgb_image(), GRID, 400)
    drawn, original = patches(draw_patches(seen, GRID, [0, 7], merged_into)), patches(seen)
    token_color = np.array(token_colors(merged_into, GRID, 2))
    for index, patch in enumerate((0, 7)):
        assert (drawn[patch][15:-15, 15:-15] == original[patch][15:-15, 15:-15]).all()
        assert (drawn[patch][0] == token_color[index]).all()
    tints = drawn[:, 20:-20, 20:-20].mean(axis=(1, 2))
    tints -= tints.mean(axis=1, keepdims=True)
    for patch in (1, 5, 6, 11):
        colors = token_color.astype(np.float64)
        colors -= colors.mean(axis=1, keepdims=True)
        assert (colors @ tints[patch]).argmax() == merged_into[patch]


def test_without_merged_into_all_but_the_kept_are_dropped() -> None:
    seen = crop_to_grid(rgb_image(), GRID, 400)
    assert grey(patches(draw_patches(seen, GRID, [5], []))) == [patch for patch in range(12) if patch != 5]


def test_a_token_that_is_no_patch_frames_none() -> None:
    """VisionZip's CLS travels with the place of a patch that another token took in."""
    seen = crop_to_grid(rgb_image(), GRID, 400)
    drawn = draw_patches(seen, GRID, [0, 7], [1] * 12)
    colors = token_colors([1] * 12, GRID, 2)
    assert (patches(drawn)[7][0] == colors[1]).all()
    assert not (patches(drawn)[0][0] == colors[0]).all()


@pytest.mark.parametrize("seed", range(5))
def test_tokens_with_adjacent_patches_have_colours_that_differ(seed: int) -> None:
    clusters = np.random.default_rng(seed).integers(-1, 40, (12, 12))
    colors = np.array(token_colors(clusters.ravel().tolist(), (12, 12), 40))
    blocks = np.arange(16).reshape(4, 4).repeat(3, axis=0).repeat(3, axis=1)
    assert len(set(token_colors(blocks.ravel().tolist(), (12, 12), 16))) == 16
    differences = [
        np.abs(colors[one] - colors[other]).sum()
        for one, other in [
            *zip(clusters[:, 1:].ravel(), clusters[:, :-1].ravel(), strict=True),
            *zip(clusters[1:].ravel(), clusters[:-1].ravel(), strict=True),
        ]
        if one != other and min(one, other) >= 0
    ]
    assert min(differences) > 100
    assert token_colors([-1] * 4, (2, 2), 0) == []


def test_the_brightest_square_of_a_heat_map_is_the_maps_maximum() -> None:
    values = np.random.default_rng(1).normal(size=12)
    seen = crop_to_grid(Image.new("RGB", (120, 90), (128, 128, 128)), GRID, 400)
    brightness = patches(draw_heatmap(seen, GRID, values.tolist())).mean(axis=(1, 2, 3))
    assert (brightness.argsort() == values.argsort()).all()


@pytest.mark.parametrize("value", [0.0, -3.5])
def test_a_map_without_differences_is_one_dark_field(value: float) -> None:
    seen = crop_to_grid(Image.new("RGB", (120, 90), (128, 128, 128)), GRID, 400)
    flat = np.asarray(draw_heatmap(seen, GRID, [value] * 12))
    assert (flat == flat[0, 0]).all()
    assert flat.mean() < 100


def test_a_wide_image_is_cropped_like_in_preprocessing() -> None:
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 255
    seen = crop_to_grid(Image.fromarray(pixels), (2, 2), 576)
    assert seen.size == (576, 576)
    assert np.asarray(seen)[:, 20:-20].min() > 220


def test_patches_of_a_fine_grid_keep_four_pixels() -> None:
    assert crop_to_grid(rgb_image(), (200, 200), 360).size == (800, 800)
