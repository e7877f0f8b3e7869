"""Scenes follow from their seeds, stay inside, and show enough of every thing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lab.scenes import FIRST_EVALUATION_SEED, SCENES_PER_EVALUATION_SEED, Split, evaluation_seed
from lab.world576.composition import Composer, pack
from lab.world576.kinds import COLORS, DISTRACTORS, KINDS, SIGN, TEXTS
from lab.world576.scenes import (
    GRID,
    IMAGE_SIZE,
    LEAST_VISIBLE,
    MAX_SIGNS,
    MAX_THINGS,
    Scene,
    Thing,
    sample_scene,
    thing_of_patch,
    thing_of_sample,
)


@pytest.mark.parametrize("split", ["simple", "easy", "crowded"])
def test_a_seed_gives_the_same_scene(split: Split) -> None:
    assert sample_scene(split, 7) == sample_scene(split, 7)
    assert sample_scene(split, 7) != sample_scene(split, 8)


@pytest.mark.parametrize(("split", "fewest", "most"), [("simple", 1, 2), ("easy", 3, 6), ("crowded", 8, MAX_THINGS)])
def test_number_of_things_per_split(split: Split, fewest: int, most: int) -> None:
    counts = {len(sample_scene(split, seed).things) for seed in range(120)}
    assert min(counts) == fewest
    assert max(counts) == most


def test_things_stay_inside_the_image_and_signs_are_whole() -> None:
    for seed in range(40):
        scene = sample_scene("crowded", seed)
        for thing in scene.things:
            reach = thing.size * (0.3 if thing.kind == SIGN else 0.5)
            assert reach <= thing.y <= IMAGE_SIZE - reach
            assert thing.size / 2 <= thing.x <= IMAGE_SIZE - thing.size / 2
            if thing.kind == SIGN:
                assert thing.text in TEXTS
                assert thing.visible == 1.0
        assert sum(thing.kind == SIGN for thing in scene.things) <= MAX_SIGNS


def test_every_thing_shows_enough_of_itself_and_some_are_partly_hidden() -> None:
    things = [thing for seed in range(60) for thing in sample_scene("crowded", seed).things]
    assert min(thing.visible for thing in things) >= LEAST_VISIBLE
    assert sum(thing.visible < 0.95 for thing in things) > len(things) / 20


def test_visible_share_agrees_with_the_pixels() -> None:
    """The share of its pixels that a thing changes in the image, against the share of samples."""
    composer = Composer()
    for seed in (2, 11):
        scene = sample_scene("easy" if seed == 2 else "crowded", seed)
        whole = composer(pack([scene]))[0].int()
        for index, thing in enumerate(scene.things):
            if thing.text:
                continue
            alone, none = (
                composer(pack([Scene(scene.split, seed, scene.background, scene.tinted, things)]))[0].int()
                for things in ((thing,), ())
            )
            own = ((alone - none).abs().amax(0) > 0).sum().item()
            rest = Scene(
                scene.split, seed, scene.background, scene.tinted, scene.things[:index] + scene.things[index + 1 :]
            )
            shown = ((whole - composer(pack([rest]))[0].int()).abs().amax(0) > 0).sum().item()
            assert shown / own == pytest.approx(thing.visible, abs=0.12)


def test_a_later_thing_hides_an_earlier_one() -> None:
    behind, before = Thing("bucket", "red", 100, 100, 60), Thing("bucket", "blue", 100, 100, 60)
    _, shares = thing_of_sample((behind, before))
    assert shares == [0.0, 1.0]


def test_the_patch_of_a_lone_thing_is_its_own() -> None:
    scene = Scene("simple", 0, "gradient", True, (Thing("apple", "red", 105, 203, 90),))
    owners = thing_of_patch(scene)
    assert owners.shape == (GRID * GRID,)
    assert owners[203 // 14 * GRID + 105 // 14] == 0
    rows, columns = np.divmod(np.flatnonzero(owners == 0), GRID)
    assert abs((rows.mean() + 0.5) * 14 - 203) < 10
    assert abs((columns.mean() + 0.5) * 14 - 105) < 10


def test_tinted_scenes_have_colours_and_natural_ones_none() -> None:
    scenes = [sample_scene("crowded", seed) for seed in range(60)]
    assert 0.5 < sum(scene.tinted for scene in scenes) / len(scenes) < 0.9
    for scene in scenes:
        assert all(bool(thing.look) == scene.tinted for thing in scene.objects)
        assert not any(thing.look for thing in scene.distractors)
        assert 2 <= len(scene.distractors) <= 3


def test_all_kinds_and_colours_occur_and_distractors_are_no_objects() -> None:
    things = [thing for seed in range(250) for thing in sample_scene("crowded", seed).things]
    kinds = Counter(thing.kind for thing in things)
    assert 60 <= len(KINDS) <= 100
    assert set(kinds) == {*KINDS, *DISTRACTORS, SIGN}
    assert not set(KINDS) & set(DISTRACTORS)
    assert {thing.look for thing in things} == {"", *COLORS}


def test_evaluation_seeds_never_meet_training_seeds_or_each_other() -> None:
    assert evaluation_seed(0, 0) == FIRST_EVALUATION_SEED
    assert evaluation_seed(3, SCENES_PER_EVALUATION_SEED - 1) < evaluation_seed(4, 0)
    with pytest.raises(ValueError, match="seed must be"):
        evaluation_seed(-1, 0)
    with pytest.raises(ValueError, match="index in"):
        evaluation_seed(0, SCENES_PER_EVALUATION_SEED)
