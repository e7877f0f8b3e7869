"""Scenes and images follow from their seeds, and things are at the positions of the scene."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lab.render import label_patches, render, render_array
from lab.scenes import (
    FIRST_EVALUATION_SEED,
    GRID,
    IMAGE_SIZE,
    SCENES_PER_EVALUATION_SEED,
    Split,
    evaluation_seed,
    sample_scene,
)


@pytest.mark.parametrize("split", ["simple", "easy", "crowded"])
def test_a_seed_gives_the_same_scene_and_the_same_pixels(split: Split) -> None:
    scene = sample_scene(split, 7)
    assert scene == sample_scene(split, 7)
    assert scene != sample_scene(split, 8)
    assert np.array_equal(render_array(scene), render_array(scene))


@pytest.mark.parametrize(("split", "fewest", "most"), [("simple", 1, 2), ("easy", 3, 6), ("crowded", 8, 14)])
def test_number_of_things_per_split(split: Split, fewest: int, most: int) -> None:
    counts = {len(sample_scene(split, seed).things) for seed in range(80)}
    assert min(counts) == fewest
    assert max(counts) == most


def test_only_crowded_scenes_have_distractors_and_they_are_the_large_things() -> None:
    for seed in range(30):
        assert not sample_scene("easy", seed).distractors
        crowded = sample_scene("crowded", seed)
        assert 2 <= len(crowded.distractors) <= 3
        assert min(t.size for t in crowded.distractors) > max(t.size for t in crowded.objects)


def test_things_stay_inside_and_apart() -> None:
    for seed in range(30):
        things = sample_scene("crowded", seed).things
        for thing in things:
            assert thing.size / 2 <= min(thing.x, thing.y)
            assert max(thing.x, thing.y) <= IMAGE_SIZE - thing.size / 2
        for a, b in itertools.combinations(things, 2):
            assert max(abs(a.x - b.x), abs(a.y - b.y)) * 2 >= a.size + b.size


def test_image_format() -> None:
    image = render(sample_scene("easy", 1))
    assert (image.size, image.mode) == ((IMAGE_SIZE, IMAGE_SIZE), "RGB")


def test_every_thing_owns_the_patch_of_its_centre() -> None:
    for seed in range(20):
        scene = sample_scene("crowded", seed)
        owners = label_patches(scene)
        assert owners.shape == (GRID * GRID,)
        for index, thing in enumerate(scene.things):
            assert (owners == index).any()
            assert owners[thing.centre_patch] >= 0


def test_evaluation_seeds_never_meet_training_seeds_or_each_other() -> None:
    assert evaluation_seed(0, 0) == FIRST_EVALUATION_SEED
    assert evaluation_seed(3, SCENES_PER_EVALUATION_SEED - 1) < evaluation_seed(4, 0)
    with pytest.raises(ValueError, match="seed must be"):
        evaluation_seed(-1, 0)
    with pytest.raises(ValueError, match="index in"):
        evaluation_seed(0, SCENES_PER_EVALUATION_SEED)
