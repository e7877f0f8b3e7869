"""Canvas of a drawing: the whole image, faded where it was cut off, hatched where it was padded."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fovea.visualization.canvas import PatchCanvas, Viewed, faded, place_on_canvas
from fovea.visualization.overlay import crop_to_grid

GRID = (12, 12)
BLUE, RED, GREEN = (20, 40, 220), (220, 30, 30), (10, 200, 60)
FRAME = 2
LARGEST = (1112, 1112)
WIDE, TALL = (1200, 300), (300, 1200)
MIDDLE: dict[tuple[int, int], Viewed] = {WIDE: (0.375, 0.0, 0.625, 1.0), TALL: (0.0, 0.375, 1.0, 0.625)}
SQUARE: dict[tuple[int, int], Viewed] = {WIDE: (0.0, -1.5, 1.0, 2.5), TALL: (-1.5, 0.0, 2.5, 1.0)}


def place(image: Image.Image, viewed: Viewed | None, grid: tuple[int, int] = GRID, side: int = 360) -> PatchCanvas:
    return place_on_canvas(image, grid, viewed, side=side, max_sizes=[LARGEST])


def composed(canvas: PatchCanvas) -> np.ndarray:
    """A green drawing of the patches on the canvas, without the border around both."""
    drawing = canvas.compose(Image.new("RGB", canvas.patches.size, GREEN))
    return np.asarray(drawing)[FRAME:-FRAME, FRAME:-FRAME]


@pytest.mark.parametrize("size", [WIDE, TALL])
def test_exactly_what_was_cut_off_is_faded(size: tuple[int, int]) -> None:
    canvas = place(Image.new("RGB", size, BLUE), MIDDLE[size])
    left, top, right, bottom = canvas.viewed
    assert right - left == bottom - top == canvas.patches.width  # as square as the patches
    assert canvas.image.width / canvas.image.height == size[0] / size[1]
    pixels = composed(canvas)
    seen = np.zeros(pixels.shape[:2], np.bool_)
    seen[top:bottom, left:right] = True
    assert (pixels[seen] == GREEN).all()
    pale = np.asarray(faded(Image.new("RGB", (1, 1), BLUE)))[0, 0]
    is_frame = (pixels == (20, 20, 24)).all(axis=-1)
    assert (pixels[~seen & ~is_frame] == pale).all()
    assert is_frame.any(axis=1 if size == TALL else 0).sum() == 2 * FRAME  # a line on either side of the patches


@pytest.mark.parametrize("size", [WIDE, TALL])
@pytest.mark.parametrize("seen_as", [MIDDLE, SQUARE])
def test_a_block_is_where_it_is_in_the_image(size: tuple[int, int], seen_as: dict[tuple[int, int], Viewed]) -> None:
    """Inside and outside of what was seen, on the scale of the patches."""
    image = Image.new("RGB", size, BLUE)
    blocks = [(60, 90, 120, 180), (540, 120, 600, 180), (1110, 30, 1170, 270)]
    for block in blocks:
        image.paste(RED, block if size == WIDE else (block[1], block[0], block[3], block[2]))
    canvas = place(image, seen_as[size])
    pixels = np.asarray(canvas.image).astype(int)
    is_red = (pixels[..., 0] > 120) & (pixels[..., 2] < 120)
    if size == TALL:
        is_red = is_red.T
    scale = (canvas.content[2] - canvas.content[0]) / size[0]
    start = canvas.content[:2] if size == WIDE else canvas.content[1::-1]
    for x0, y0, x1, y1 in blocks:
        corner = [round(edge * scale) + start[axis] for edge, axis in ((x0, 0), (y0, 1), (x1, 0), (y1, 1))]
        inside = is_red[corner[1] + 2 : corner[3] - 2, corner[0] + 2 : corner[2] - 2]
        assert inside.all()
    area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in blocks)
    assert is_red.sum() == pytest.approx(area * scale**2, rel=0.15)


def test_padding_is_grey_around_the_image() -> None:
    canvas = place(Image.new("RGB", WIDE, BLUE), SQUARE[WIDE])
    assert canvas.image.size == canvas.patches.size == (360, 360)
    assert canvas.content == (0, 135, 360, 225)
    pixels = np.asarray(canvas.image).astype(int)
    is_grey = np.ptp(pixels, axis=-1) == 0
    assert is_grey[:135].all()
    assert is_grey[225:].all()
    assert not is_grey[135:225].any()
    assert not canvas.is_cut


def test_an_image_that_is_padded_and_cut_shows_both() -> None:
    """A processor that cuts the border off the square."""
    canvas = place(Image.new("RGB", (200, 100), BLUE), (0.1, -0.4, 0.9, 1.2))
    assert canvas.is_cut
    assert canvas.has_padding
    left, top, right, bottom = canvas.content
    assert (left, right) == (0, canvas.image.width)
    assert (bottom - top) / canvas.image.height == pytest.approx(1 / 1.6, abs=0.01)


def test_an_image_that_was_seen_whole_has_no_frame() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    canvas = place(image, (0.0, 0.0, 1.0, 1.0), (9, 12))
    drawing = Image.new("RGB", canvas.patches.size, GREEN)
    assert canvas.compose(drawing) is drawing
    assert canvas.image.tobytes() == crop_to_grid(image, (9, 12), 360).tobytes()


def test_without_a_viewed_area_the_middle_is_the_canvas() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 300, 3), dtype=np.uint8))
    canvas = place(image, None)
    assert canvas.image.tobytes() == crop_to_grid(image, GRID, 360).tobytes()
    assert not canvas.is_cut


@pytest.mark.parametrize("grid", [(12, 12), (24, 24), (40, 40)])
@pytest.mark.parametrize("ratio", [1.01, 1.3, 2, 5.5, 17, 100])
@pytest.mark.parametrize("is_tall", [False, True])
def test_long_images_stay_within_the_page(ratio: float, is_tall: bool, grid: tuple[int, int]) -> None:
    size = (round(100 * ratio), 100)
    part = size[1] / size[0]
    viewed: Viewed = ((1 - part) / 2, 0.0, (1 + part) / 2, 1.0)
    if is_tall:
        size, viewed = size[::-1], (viewed[1], viewed[0], viewed[3], viewed[2])
    canvas = place(Image.new("RGB", size, BLUE), viewed, grid)
    whole = canvas.compose(canvas.patches)
    assert max(whole.size) <= max(LARGEST)
    assert min(canvas.patches.size) >= 160
    assert all(pixels % count == 0 for pixels, count in zip(canvas.patches.size, grid[::-1], strict=True))
    assert canvas.is_shrunk == (ratio > 6)
    left, top, right, bottom = canvas.viewed
    before, after = (top, canvas.image.height - bottom) if is_tall else (left, canvas.image.width - right)
    assert abs(before - after) <= 1  # the middle stays in the middle


def test_the_first_size_counts_that_shrinks_nothing() -> None:
    image = Image.new("RGB", WIDE, BLUE)
    small, fits, large = ((300, 300), (900, 400), (1112, 1112))
    canvas = place_on_canvas(image, GRID, MIDDLE[WIDE], side=360, max_sizes=[small, fits, large])
    assert not canvas.is_shrunk
    assert 700 < canvas.image.width < 900


@pytest.mark.parametrize("is_tall", [False, True])
def test_a_padded_strip_keeps_a_line_of_its_image(is_tall: bool) -> None:
    size, viewed = ((3000, 30), (0.0, -49.5, 1.0, 50.5)) if not is_tall else ((30, 3000), (-49.5, 0.0, 50.5, 1.0))
    canvas = place(Image.new("RGB", size, RED), viewed, (12, 12), side=48)
    assert canvas.image.size == (48, 48)
    assert 0 < (np.asarray(canvas.image)[..., 0] == RED[0]).sum() <= 2 * 48
