"""Scenes: the content of an image, sampled from a seed. `lab.render` renders them.

An image has 144 x 144 pixels, that is 12 x 12 patches of 12 pixels. It contains two kinds of things:

* *objects* of 8 shapes, 8 colours and 2 sizes, some with a letter on them. Questions are about objects.
* *distractors* of four other shapes, large, two-toned and textured. They are never asked about but named in captions,
  so that a saliency map that does not depend on the question highlights them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

IMAGE_SIZE = 144
PATCH_SIZE = 12
GRID = IMAGE_SIZE // PATCH_SIZE

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "moon")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
LETTERS = ("A", "C", "H", "K", "L", "T", "X", "Z")
DISTRACTOR_SHAPES = ("flower", "gear", "house", "kite")
TEXTURES = ("striped", "checkered", "dotted")
BACKGROUNDS = ("gradient", "clouds", "stripes", "checks", "noise")

Split = Literal["simple", "easy", "crowded"]
SPLITS: tuple[Split, ...] = ("simple", "easy", "crowded")

# Scene seeds below it are for training, seeds from it on for evaluation.
FIRST_EVALUATION_SEED = 10_000_000
SCENES_PER_EVALUATION_SEED = 100_000


@dataclass(frozen=True)
class Thing:
    """One object or distractor; `x`, `y` is the centre and `size` the side of its box, in pixels."""

    shape: str
    look: str  # a colour for an object, a texture for a distractor
    x: int
    y: int
    size: int
    letter: str = ""  # empty: none
    distractor: bool = False

    @property
    def name(self) -> str:
        """Name in captions and answers, such as "red star"."""
        return f"{self.look} {self.shape}"

    @property
    def large(self) -> bool:
        """Whether it counts as large."""
        return self.size >= 30

    @property
    def centre_patch(self) -> int:
        """Raster index in 0..143 of the patch that holds the centre."""
        return (self.y // PATCH_SIZE) * GRID + self.x // PATCH_SIZE


@dataclass(frozen=True)
class Scene:
    """Content of an image, which `split` and `seed` determine."""

    split: Split
    seed: int
    background: str
    things: tuple[Thing, ...]  # in reading order of their centre patches

    @property
    def objects(self) -> tuple[Thing, ...]:
        """Things that questions are about."""
        return tuple(thing for thing in self.things if not thing.distractor)

    @property
    def distractors(self) -> tuple[Thing, ...]:
        """Conspicuous things that are never asked about."""
        return tuple(thing for thing in self.things if thing.distractor)


def evaluation_seed(seed: int, index: int) -> int:
    """Scene seed of image `index` in evaluation run `seed`; never a training seed.

    Raises:
        ValueError: `seed` or `index` is out of range.
    """
    if seed < 0 or not 0 <= index < SCENES_PER_EVALUATION_SEED:
        raise ValueError(f"seed must be >= 0 and index in [0, {SCENES_PER_EVALUATION_SEED}); got {seed}, {index}")
    return FIRST_EVALUATION_SEED + seed * SCENES_PER_EVALUATION_SEED + index


def sample_scene(split: Split, seed: int) -> Scene:
    """Scene of a seed. `simple` has 1-2 large objects, `easy` 3-6 objects, `crowded` 8-14 things with 2-3 distractors.

    Args:
        split: split of the scene.
        seed: seed of the scene.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    if split == "simple":
        num_objects, num_distractors = int(rng.integers(1, 3)), 0
    elif split == "easy":
        num_objects, num_distractors = int(rng.integers(3, 7)), 0
    else:
        num_distractors = int(rng.integers(2, 4))
        num_objects = int(rng.integers(8, 15)) - num_distractors
    sizes = [int(rng.integers(36, 43)) for _ in range(num_distractors)]
    for _ in range(num_objects):
        large = split == "simple" or (split == "easy" and rng.random() < 0.4)
        sizes.append(int(rng.integers(34, 45)) if large else int(rng.integers(22, 27)))
    boxes = _place(sizes, rng)
    looks = object_looks(len(boxes) - num_distractors, SHAPES, COLORS, 4, (0.35, 0.7), rng)
    things = []
    for index, (x, y, size) in enumerate(boxes):
        if index < num_distractors:
            shape, look = str(rng.choice(DISTRACTOR_SHAPES)), str(rng.choice(TEXTURES))
            things.append(Thing(shape, look, x, y, size, distractor=True))
        else:
            shape, look = looks[index - num_distractors]
            letter = str(rng.choice(LETTERS)) if rng.random() < 0.4 else ""
            things.append(Thing(shape, look, x, y, size, letter))
    things.sort(key=lambda thing: (thing.centre_patch, thing.x))
    return Scene(split, seed, str(rng.choice(BACKGROUNDS)), tuple(things))


def _place(sizes: list[int], rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Boxes `(x, y, size)` that do not overlap, in the order of `sizes`. Starts again if there is no room for a box."""
    while True:
        boxes: list[tuple[int, int, int]] = []
        for size in sizes:
            half = size // 2 + 1
            for x, y in rng.integers(half, IMAGE_SIZE - half, (60, 2)).tolist():
                if all(max(abs(x - bx), abs(y - by)) * 2 >= size + bsize + 2 for bx, by, bsize in boxes):
                    boxes.append((x, y, size))
                    break
            else:
                break
        if len(boxes) == len(sizes):
            return boxes


def object_looks(
    count: int,
    shapes: Sequence[str],
    colors: Sequence[str],
    most_alike: int,
    themes: tuple[float, float],
    rng: np.random.Generator,
) -> list[tuple[str, str]]:
    """Shape and colour of each object. Many scenes repeat a shape or a colour, so that counts above one are common.

    Args:
        count: number of objects.
        shapes, colors: choices.
        most_alike: largest number of objects that are made alike.
        themes: share of the scenes that repeat a shape, and of those that repeat a shape or a colour.
        rng: random generator.
    """
    looks = [(str(rng.choice(shapes)), str(rng.choice(colors))) for _ in range(count)]
    theme = rng.random()
    if theme < themes[1] and count >= 2:
        repeated = int(rng.integers(2, min(count, most_alike) + 1))
        for index in range(1, repeated):
            shape, color = looks[index]
            looks[index] = (looks[0][0], color) if theme < themes[0] else (shape, looks[0][1])
    return looks
