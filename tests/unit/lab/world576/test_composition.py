"""Images are those of their scenes, whatever the batch."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from lab.world576.atlas import FILE, SIDE, SPRITES, sprites
from lab.world576.composition import Composer, compose, pack
from lab.world576.kinds import COLORS
from lab.world576.scenes import IMAGE_SIZE, Scene, Thing, sample_scene
from tests.dispatched_operations import operations_of


def test_the_atlas_has_a_picture_for_every_name_and_none_twice() -> None:
    assert sprites().shape == (len(SPRITES), SIDE, SIDE, 4)
    assert all(sprite[..., 3].max() == 1 for sprite in sprites())
    assert len({sprite.tobytes() for sprite in sprites()}) == len(SPRITES)
    assert FILE.stat().st_size < 1_000_000


def test_images_are_alike_in_batches_of_any_size_and_order() -> None:
    scenes = [sample_scene("crowded" if seed % 2 else "easy", seed) for seed in range(5)]
    composer = Composer()
    together = composer(pack(scenes))
    assert together.shape == (5, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert together.dtype == torch.uint8
    for index, scene in enumerate(scenes):
        assert torch.equal(composer(pack([scene]))[0], together[index])
    assert torch.equal(composer(pack(scenes).select(np.array([3, 0]))), together[[3, 0]])


def test_a_larger_batch_takes_no_more_operations_and_no_value_is_read_back() -> None:
    """What the rate on a GPU depends on."""
    scene = pack([sample_scene("crowded", 1)])
    composer = Composer("meta")  # has no values, so a read would fail
    few, many = (operations_of(partial(composer, scene.select(np.zeros(size, dtype=np.int64)))) for size in (2, 64))
    assert few == many


def test_in_float64_an_image_differs_by_a_grey_level_at_most() -> None:
    """Another order or precision of sums, such as that of a GPU, changes no more than rounding does."""
    scenes = pack([sample_scene("crowded", seed) for seed in range(3)])
    composer = Composer()
    single = composer(scenes).int()
    for name, value in vars(composer).items():
        if isinstance(value, torch.Tensor):
            setattr(composer, name, value.double())
    layers, backgrounds = scenes.layers.astype(np.float64), scenes.backgrounds.astype(np.float64)
    double = composer(type(scenes)(layers, scenes.counts, backgrounds, scenes.clouds)).int()  # type: ignore[arg-type]
    difference = (single - double).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01


@pytest.mark.parametrize("color", list(COLORS))
def test_a_tinted_thing_has_its_colour(color: str) -> None:
    scene = Scene("simple", 5, "gradient", True, (Thing("apple", color, 168, 168, 100),))
    patch = np.asarray(compose([scene])[0])[148:200, 148:190].reshape(-1, 3).astype(float)
    unit = patch.mean(0) / np.linalg.norm(patch.mean(0))
    nearest = max(COLORS, key=lambda name: float(unit @ np.array(COLORS[name]) / np.linalg.norm(COLORS[name])))
    assert nearest == color


def test_turning_and_mirroring_move_the_pixels() -> None:
    def image(angle: int, mirrored: bool) -> np.ndarray:
        scene = Scene("simple", 1, "gradient", False, (Thing("hammer", "", 168, 168, 96, angle, mirrored),))
        return np.asarray(compose([scene])[0]).astype(int)

    plain, mirrored = image(0, False), image(0, True)
    inside = slice(126, 210)
    assert np.abs(plain[inside, inside] - mirrored[inside, inside][:, ::-1]).mean() < 8
    assert np.abs(plain[inside, inside] - mirrored[inside, inside]).mean() > 20
    turned = np.rot90(image(90, False), 1)  # a quarter turn clockwise, taken back
    assert np.abs(plain[inside, inside] - turned[inside, inside]).mean() < 8


def test_the_text_of_a_sign_is_on_it() -> None:
    stop, shop = (
        Scene("simple", 1, "gradient", False, (Thing("sign", "", 168, 168, 88, text=text),))
        for text in ("STOP", "SHOP")
    )
    first, second = (np.asarray(image).astype(int) for image in compose([stop, shop]))
    rows, columns = np.nonzero(np.abs(first - second).max(2))
    assert rows.min() >= 150
    assert rows.max() <= 186
    assert 145 <= columns.min() < columns.max() <= 172  # the second letter alone
