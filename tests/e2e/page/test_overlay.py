"""The overlay of the page: pixels of the canvas against the explanation of the API."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import expect

import gateway
from tests.e2e.conftest import Client
from tests.e2e.page.conftest import OpenPage
from tests.e2e.page.screen import Screen

SAMPLES: Final = Path(gateway.__file__).parent / "http" / "page" / "samples"
QUESTION: Final = "What color is the moon?"
GRID: Final = (12, 12)

Color = tuple[int, int, int]


@pytest.fixture
def explain(client: Client) -> dict[str, Any]:
    """Explanation of the sample that the tests ask about."""
    explanation: dict[str, Any] = client.ask((SAMPLES / "crowded.png").read_bytes(), QUESTION, explain=True)["explain"]
    return explanation


@pytest.fixture
def asked(screen: Screen) -> Screen:
    screen.choose_sample("Crowded")
    screen.ask(QUESTION)
    return screen


def difference(first: Color, second: Color) -> int:
    return max(abs(a - b) for a, b in zip(first, second, strict=True))


def test_kept_patches_are_as_in_the_image_and_all_others_are_not(asked: Screen, explain: dict[str, Any]) -> None:
    overlaid = asked.patch_colors(*GRID)
    asked.layer("Patches", shown=False)
    plain = asked.patch_colors(*GRID)
    unchanged = {patch for patch in range(144) if difference(overlaid[patch], plain[patch]) == 0}
    assert unchanged == set(explain["kept"])
    # Merged patches have the tint of their token: patches of two tokens on the same ground differ.
    assert len(set(overlaid)) > len(explain["kept"])


@pytest.mark.parametrize(("layer", "name"), [("Task map", "task_map"), ("Saliency map", "saliency_map")])
def test_a_map_is_brightest_where_its_value_is_highest(
    asked: Screen, explain: dict[str, Any], layer: str, name: str
) -> None:
    asked.layer("Patches", shown=False)
    asked.layer(layer, shown=True)
    slider = asked.page.get_by_role("slider", name=f"Opacity of {layer.lower()}")
    slider.press("End")
    values = [value for row in explain[name] for value in row]
    brightness = [sum(color) for color in asked.patch_colors(*GRID)]
    order = sorted(range(144), key=values.__getitem__)
    # Each of the three channels is rounded.
    assert all(brightness[high] >= brightness[low] - 3 for low, high in pairwise(order))
    assert brightness[order[-1]] > 2 * brightness[order[0]]
    expect(asked.pane().get_by_text(re.compile(rf"{layer.lower()} {min(values):#.3g}", re.IGNORECASE))).to_be_visible()
    # Half as opaque: the image shines through.
    opaque = asked.patch_colors(*GRID)
    slider.evaluate("slider => { slider.value = '50'; slider.dispatchEvent(new Event('input', { bubbles: true })); }")
    assert asked.patch_colors(*GRID) != opaque
    slider.press("Home")
    expect(asked.page.get_by_role("checkbox", name=layer, exact=True)).not_to_be_checked()


def test_a_map_that_a_pruner_has_not_is_said_to_be_missing(asked: Screen) -> None:
    asked.layer("Task map", shown=True)
    asked.pruner().select_option("uniform")
    expect(asked.pane().get_by_text("no task map: uniform does not read the question")).to_be_visible()


def test_the_pointer_marks_a_cluster(asked: Screen, explain: dict[str, Any]) -> None:
    clusters = [index for row in explain["merged_into"] for index in row]
    patch = next(patch for patch in range(144) if patch not in explain["kept"])
    before = asked.patch_colors(*GRID)
    box = asked.canvas().bounding_box()
    assert box
    asked.canvas().hover(
        position={"x": (patch % 12 + 0.5) * box["width"] / 12, "y": (patch // 12 + 0.5) * box["height"] / 12}
    )
    row, column, token = patch // 12 + 1, patch % 12 + 1, clusters[patch] + 1
    expected = f"Row {row}, column {column}: merged into token {token} of 16 with"
    expect(asked.pane().get_by_text(expected)).to_be_visible()
    marked = asked.patch_colors(*GRID)
    same = {patch for patch in range(144) if difference(marked[patch], before[patch]) == 0}
    assert same == {other for other in range(144) if clusters[other] == clusters[patch]}
    asked.page.mouse.move(1, 1)
    expect(asked.pane().get_by_text(expected)).to_be_hidden()
    assert asked.patch_colors(*GRID) == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_preprocessing_cut_away_is_faded_and_padding_is_hatched(open_page: OpenPage, scheme: str) -> None:
    screen = open_page(color_scheme=scheme)
    screen.choose_sample("Wide")
    columns = (8, 16)
    plain = screen.patch_colors(*columns)
    screen.ask("What color is the ring?")
    screen.layer("Patches", shown=False)
    # The image is twice as wide as high; the model saw the middle half.
    cut = screen.patch_colors(*columns)
    changed = {patch % 16 for patch in range(128) if difference(cut[patch], plain[patch]) > 3}
    assert changed == {0, 1, 2, 3, 12, 13, 14, 15}
    expect(screen.pane().get_by_text("faded: cut away, the model did not see it")).to_be_visible()
    screen.pane().get_by_text("Second pruner, wire format, fit").click()
    screen.pane().get_by_role("combobox", name="Fit of the image").select_option("pad")
    expect(screen.pane().get_by_text("padding", exact=True)).to_be_visible()
    padded = screen.patch_colors(64, 64)
    hatched = {color for patch, color in enumerate(padded) if not 16 <= patch // 64 < 48}
    assert all(len(set(color)) == 1 for color in hatched)  # grey stripes
    assert max(hatched)[0] - min(hatched)[0] >= 15


def test_tiles_are_shown_one_at_a_time(screen: Screen) -> None:
    """The page reads the form of `explain` for tiles, which the small model has not."""
    explain = {
        "pruner": "hired",
        "visuals": [
            {
                "kind": "image",
                "grid": [2, 2, 2],
                "kept": [1, 6, 8],
                "viewed": [0, 0, 1, 1],
                "saliency_map": [[[0, 3], [1, 1]], [[0, 0], [5, 0]]],
                "merged_into": [[[0, 0], [-1, -1]], [[-1, -1], [1, -1]]],
            }
        ],
    }
    code = "async (explain) => (await import('./page/explanation.js')).patchGrids(JSON.parse(explain))"
    grids = screen.page.evaluate(f"({code})", json.dumps(explain))
    assert [(grid["name"], grid["hasImage"], grid["numKept"]) for grid in grids] == [
        ("base tile", True, 3),
        ("tile 1", False, 3),
    ]
    assert [grid["clusters"] for grid in grids] == [[0, 0, -1, -1], [-1, -1, 1, -1]]
    assert [grid["saliency"] for grid in grids] == [[0, 3, 1, 1], [0, 0, 5, 0]]
    assert all(grid["task"] is None for grid in grids)
