"""`/v1/explain` and `fovea explain` against the real services: the drawing agrees with the numbers of the answer."""

from __future__ import annotations

import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.accuracy.task_map import named_things
from fovea.checkpoints.shipped import demo_folder
from fovea.processes.stack import Stack
from lab.questions import evaluation_questions
from lab.render import label_patches
from tests.e2e.conftest import Client, data_url, png
from tests.e2e.test_cli import fovea

DEMO = demo_folder() / "demo.png"
SIDE, CELL = 360, 30  # pixels of a panel of 12 x 12 patches, and of a patch
QUESTION = "What color is the moon?"


def explain(client: Client, picture: bytes, question: str = QUESTION, **fields: object) -> httpx.Response:
    body = {"image": data_url(picture), "question": question, **fields}
    response: httpx.Response = client.http.post("/v1/explain", json=body)
    return response


def panels(file: bytes) -> list[np.ndarray]:
    """[144, 30, 30, 3] of each of the three panels of a sheet that follow the image itself."""
    pixels = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), np.int64)
    bottom = len(pixels) - 16 - 24 - 16 - 38  # margin, legend, margin, scales
    lefts = (16 + number * (SIDE + 16) for number in (1, 2, 3))
    return [squares(pixels[bottom - SIDE : bottom, left : left + SIDE]) for left in lefts]


def squares(pixels: np.ndarray) -> np.ndarray:
    """[360, 360, c] to [144, 30, 30, c]."""
    cells = pixels.reshape(12, CELL, 12, CELL, -1).swapaxes(1, 2)
    return cells.reshape(144, CELL, CELL, -1)


def grey(cells: np.ndarray) -> set[int]:
    inner = cells[:, 2:-2, 2:-2]
    return set(np.flatnonzero((np.ptp(inner, axis=-1) == 0).all(axis=(1, 2))).tolist())


@pytest.mark.parametrize("pruner", ["desap", "hired", "visionzip"])
def test_grey_are_exactly_the_dropped_patches(client: Client, pruner: str) -> None:
    demo = DEMO.read_bytes()
    why = explain(client, demo, pruner=pruner, format="json").json()["explain"]
    dropped = set(np.flatnonzero(np.array(why["merged_into"]).reshape(-1) == -1).tolist())
    assert len(dropped) == (128 if pruner == "hired" else 0)
    patches, _, _ = panels(explain(client, demo, pruner=pruner).content)
    assert grey(patches) == dropped


def test_the_brightest_square_of_each_map_is_where_the_numbers_have_their_maximum(client: Client) -> None:
    demo = DEMO.read_bytes()
    why = explain(client, demo, format="json").json()["explain"]
    _, *maps = panels(explain(client, demo).content)
    with Image.open(DEMO) as image:
        shining_through = squares(np.asarray(image.convert("L").resize((SIDE, SIDE)))[..., None])
    for drawn, name in zip(maps, ("task_map", "saliency_map"), strict=True):
        color = drawn.mean(axis=(1, 2, 3)) - 0.42 * shining_through.mean(axis=(1, 2, 3))
        assert color.argmax() == np.argmax(why[name])


def test_a_pruner_that_reads_no_text_has_a_panel_without_the_picture(client: Client) -> None:
    _, task, saliency = panels(explain(client, DEMO.read_bytes(), pruner="cls").content)
    assert len(np.unique(task[:12], axis=None)) <= 2
    assert len(np.unique(saliency, axis=None)) > 50


def test_the_numbers_are_those_of_an_explained_answer(client: Client, picture: bytes) -> None:
    answer = client.ask(picture, QUESTION, explain=True, keep_tokens=9)
    made = explain(client, picture, keep_tokens=9, format="json").json()
    assert made["explain"] == answer["explain"]
    assert made["usage"] == {"visual_tokens_total": 144, "visual_tokens_kept": 9}


def test_the_maps_point_as_they_do_in_the_small_world(client: Client) -> None:
    """Decoupled similarity and cross-attention find the one object asked about, the vanilla similarity does not."""
    hits = dict.fromkeys(("cls_attention", "cross_attention", "vanilla_similarity", "decoupled_similarity"), 0.0)
    questions = list(evaluation_questions("crowded", 78, 10, groups=("reading",)))
    assert len(questions) >= 8
    for question in questions:
        on_object = np.isin(label_patches(question.scene), named_things(question))
        maps = explain(client, png(question), question.text, maps=True, format="json").json()["maps"]
        for name, rows in maps.items():
            hits[name] += on_object[np.argsort(np.ravel(rows))[-4:]].mean() / len(questions)
    assert min(hits["decoupled_similarity"], hits["cross_attention"]) > hits["cls_attention"] + 0.1
    assert hits["vanilla_similarity"] < hits["cls_attention"]


def test_layers_of_the_language_model_are_checked(client: Client, picture: bytes) -> None:
    response = explain(client, picture, maps=True, cross_attention_layer=8)
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["param"] == "cross_attention_layer"
    assert "0 to 7" in error["message"]
    first, last = [
        explain(client, picture, maps=True, cross_attention_layer=layer, format="json").json()["maps"][
            "cross_attention"
        ]
        for layer in (0, 7)
    ]
    assert first != last


def test_errors_have_the_shape_of_every_error(client: Client, picture: bytes) -> None:
    for response, status, param in (
        (explain(client, picture, ""), 422, "question"),
        (explain(client, picture[: len(picture) // 2]), 415, "image"),
        (explain(client, picture, pruner="sharpest"), 404, "pruner"),
        (explain(client, picture, pruner_params={"task_share": 2}), 422, "pruner_params"),
    ):
        assert response.status_code == status, response.text
        assert response.json()["error"]["param"] == param


def test_the_command_draws_several_questions(stack: Stack, tmp_path: Path) -> None:
    one, two, maps = tmp_path / "one.png", tmp_path / "two.png", tmp_path / "maps.png"
    for out, *words in (
        (one, QUESTION),
        (two, QUESTION, "Is there a cyan star?", "--pruner-params", '{"task_share": 1}', "--keep-tokens", "4"),
        (maps, QUESTION, "--maps"),
    ):
        done = fovea("explain", str(DEMO), *words, "--out", str(out), "--url", stack.url)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(out)
    assert (
        "4 of 144 visual tokens kept"
        in fovea("explain", str(DEMO), QUESTION, "--keep-tokens", "4", "--out", str(one), "--url", stack.url).stderr
    )
    sizes = [Image.open(io.BytesIO(path.read_bytes())).size for path in (one, two, maps)]
    assert sizes[1][0] == sizes[0][0]
    assert sizes[1][1] > 1.7 * sizes[0][1]
    assert sizes[2][0] > sizes[2][1]


def test_the_command_says_what_is_wrong_in_one_line(stack: Stack, tmp_path: Path) -> None:
    out = str(tmp_path / "out.png")
    for words, status, says in (
        (("--out", str(tmp_path / "no" / "out.png")), 1, "no folder"),
        (("--out", str(tmp_path / "out.tiff")), 2, ".png"),
        (("--out", out, "--pruner", "sharpest"), 1, "status 404"),
        (("--out", out, "--pruner-params", '{"x": 1}'), 1, "status 422"),
        (("--pruner-params", "[1]"), 2, "JSON object"),
    ):
        done = fovea("explain", str(DEMO), QUESTION, "--url", stack.url, *words)
        assert done.returncode == status
        lines = done.stderr.strip().splitlines()
        assert says in lines[-1]
        assert len(lines) == 1 or (status == 2 and lines[0].startswith("usage:"))
