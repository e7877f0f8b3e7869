"""Figures of explanations: counts, panels, and questions of any text."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fovea.errors import InvalidRequest
from fovea.visualization.explanation import ExplainedImage
from fovea.visualization.figures import draw_activation_maps, draw_explanations, draw_overlay

GRID = [2, 3]
IMAGE = Image.new("RGB", (30, 20), (90, 160, 220))
RESPONSE = {
    "explain": {
        "pruner": "desap",
        "grid": GRID,
        "kept": [1, 4],
        "task_map": [[0.1, 0.9, 0.2], [0.3, 0.4, 0.0]],
        "saliency_map": [[0.5, 0.1, 0.2], [0.3, 0.4, 0.0]],
        "merged_into": [[0, 0, -1], [1, 1, 1]],
    },
    "maps": {
        name: [[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]]
        for name in ("cls_attention", "cross_attention", "vanilla_similarity", "decoupled_similarity")
    },
}


def explained(question: str = "Is it red?", **changes: object) -> ExplainedImage:
    return ExplainedImage.from_response(question, {**RESPONSE, "explain": {**RESPONSE["explain"], **changes}})


def test_the_counts_cover_every_patch() -> None:
    assert explained().counts == "desap: 2 of 6 visual tokens kept, 3 patches merged into them, 1 dropped"


def test_a_token_that_is_no_patch_is_counted_as_such() -> None:
    counts = explained(pruner="visionzip", kept=[0, 4], merged_into=[[1, 1, 1], [1, 1, 1]]).counts
    assert (
        counts == "visionzip: 2 of 6 visual tokens kept (1 of them not a patch), 5 patches merged into them, 0 dropped"
    )


def test_a_token_after_the_last_patch_is_none_of_them() -> None:
    """As the row of CLS that Video-LLaVA's language model reads of an unpruned image."""
    whole = explained(pruner="none", kept=[0, 1, 2, 3, 4, 5, 6], merged_into=[[0, 1, 2], [3, 4, 5]])
    assert whole.counts == (
        "none: 7 of 7 visual tokens kept (1 of them not a patch), 0 patches merged into them, 0 dropped"
    )
    patches_alone = explained(pruner="none", kept=[0, 1, 2, 3, 4, 5], merged_into=[[0, 1, 2], [3, 4, 5]])
    with_cls, without = (np.asarray(draw_explanations([(IMAGE, one)])) for one in (whole, patches_alone))
    assert (with_cls[60:] == without[60:]).all()


def several(*grids: list[int], kind: str = "image") -> dict[str, Any]:
    visuals = [
        {"kind": kind, "grid": grid, "kept": [1, 4], "task_map": [[[0.1, 0.9, 0.2], [0.3, 0.4, 0.0]]]} for grid in grids
    ]
    return {"explain": {"pruner": "desap", "visuals": visuals}}


def test_several_images_are_under_their_question() -> None:
    response = several([1, 2, 3], [1, 2, 3])
    first, second = ExplainedImage.list_from_response("Is it red?", response)
    assert first.counts.startswith("image 1 of 2, desap: 2 of 6 visual tokens kept")
    assert second.task_map == [0.1, 0.9, 0.2, 0.3, 0.4, 0.0]
    one, both, apart = (
        draw_explanations([(IMAGE, explained) for explained in page]).height
        for page in ([first], [first, second], [first, ExplainedImage.list_from_response("Is it blue?", response)[1]])
    )
    assert 1.5 * one < both < apart


@pytest.mark.parametrize(("grid", "kind"), [([3, 2, 3], "image"), ([1, 2, 3], "video")])
def test_tiles_and_videos_are_not_drawn(grid: list[int], kind: str) -> None:
    with pytest.raises(InvalidRequest, match="format json"):
        ExplainedImage.from_response("Is it red?", several(grid, kind=kind))


def test_a_response_without_maps_is_read_too() -> None:
    bare = ExplainedImage.from_response("?", {"explain": {"pruner": "none", "grid": GRID, "kept": [0, 1, 2, 3, 4, 5]}})
    assert bare.counts == "none: 6 of 6 visual tokens kept, 0 patches merged into them, 0 dropped"
    assert not bare.task_map
    assert not bare.activation_maps


def test_a_panel_without_a_map_differs_from_one_with_it() -> None:
    """The panel of a missing map is a plain field with words; nothing of the image is in it."""
    with_map, without = (
        np.asarray(draw_explanations([(IMAGE, one)])) for one in (explained(), explained(task_map=None))
    )
    assert with_map.shape == without.shape
    differing = (with_map != without).any(axis=(0, 2)).nonzero()[0]
    panel = slice(with_map.shape[1] // 2, 3 * with_map.shape[1] // 4)  # the third of four
    assert panel.start <= differing.min() <= differing.max() <= panel.stop


def test_a_page_begins_with_the_image_itself_and_has_the_answer() -> None:
    plain = draw_explanations([(IMAGE, explained())])
    answered = draw_explanations([(IMAGE, dataclasses.replace(explained(), answer="pink"))])
    assert answered.height > plain.height
    pixels = np.asarray(plain).astype(int)
    (rows, columns) = (np.abs(pixels - IMAGE.getpixel((0, 0))).max(axis=-1) == 0).nonzero()
    first = pixels[rows.min() : rows.max() + 1, columns.min() : columns.min() + 300]
    assert (np.abs(first - IMAGE.getpixel((0, 0))) == 0).all()
    response = {**RESPONSE, "answer": "pink"}
    assert ExplainedImage.from_response("?", response).answer == "pink"
    listed = ExplainedImage.list_from_response("?", {**several([1, 2, 3], [1, 2, 3]), "answer": "pink"})
    assert [one.answer for one in listed] == ["pink", ""]


def test_each_question_adds_a_row() -> None:
    one, two = (draw_explanations([(IMAGE, explained())] * number).height for number in (1, 2))
    rows = [draw_activation_maps([(IMAGE, explained())] * number).height for number in (1, 2, 3)]
    assert two > 1.5 * one
    assert rows[2] - rows[1] == rows[1] - rows[0] > 0


@pytest.mark.parametrize(
    "question", ["?", "x" * 8000, "many words " * 700, "line\nbreak\tand \x00", "这是什么 🙂", "  "]
)
def test_no_question_breaks_the_page(question: str) -> None:
    plain, sheet = (draw_explanations([(IMAGE, one)]) for one in (explained(), explained(question)))
    assert sheet.width == plain.width
    assert plain.height <= sheet.height < plain.height + 80


WIDE = Image.new("RGB", (1200, 300), (20, 40, 220))
MIDDLE, SQUARE = [0.375, 0.0, 0.625, 1.0], [0.0, -1.5, 1.0, 2.5]


def test_the_viewed_area_is_read_for_one_image_and_for_several() -> None:
    assert explained().viewed is None
    assert explained(viewed=MIDDLE).viewed == (0.375, 0.0, 0.625, 1.0)
    response = several([1, 2, 3], [1, 2, 3])
    response["explain"]["visuals"][1]["viewed"] = SQUARE
    first, second = ExplainedImage.list_from_response("Is it red?", response)
    assert (first.viewed, second.viewed) == (None, (0.0, -1.5, 1.0, 2.5))


def shows(page: Image.Image, color: tuple[int, int, int]) -> bool:
    return bool((np.abs(np.asarray(page).astype(int) - color) <= 1).all(axis=-1).any())


def test_a_page_shows_what_was_cut_off_in_every_panel() -> None:
    pale = (166, 173, 242)  # the image's blue, faded
    square = explained(grid=[2, 2], kept=[1], task_map=[[0.1, 0.9], [0.2, 0.3]], merged_into=None, saliency_map=None)
    for draw in (draw_explanations, draw_activation_maps):
        without = draw([(WIDE, dataclasses.replace(square, activation_maps={}))])
        page = draw([(WIDE, dataclasses.replace(square, activation_maps={}, viewed=(0.375, 0.0, 0.625, 1.0)))])
        assert shows(page, pale)
        assert not shows(without, pale)
    assert shows(draw_overlay(WIDE, dataclasses.replace(square, viewed=(0.375, 0.0, 0.625, 1.0))), pale)


def test_panels_of_a_long_image_are_below_each_other() -> None:
    square = explained(grid=[2, 2], kept=[1], task_map=None, saliency_map=None, merged_into=None)
    in_row = draw_explanations([(WIDE, dataclasses.replace(square, viewed=(0.0, -1.5, 1.0, 2.5)))])
    stacked = draw_explanations([(WIDE, dataclasses.replace(square, viewed=(0.375, 0.0, 0.625, 1.0)))])
    assert stacked.height > 1.5 * in_row.height
    assert max(*in_row.size, *stacked.size) < 1700


@pytest.mark.parametrize("size", [(30_000, 300), (300, 30_000)])
def test_the_longest_images_make_no_large_page(size: tuple[int, int]) -> None:
    part = 0.005
    viewed = (0.5 - part, 0.0, 0.5 + part, 1.0) if size[0] > size[1] else (0.0, 0.5 - part, 1.0, 0.5 + part)
    one = dataclasses.replace(explained(), viewed=viewed)
    image = Image.new("RGB", size)
    for page in (draw_explanations([(image, one)]), draw_activation_maps([(image, one)])):
        assert page.width * page.height < 6_000_000
