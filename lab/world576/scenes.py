"""Scenes: the content of an image of 336 x 336 pixels, sampled from a seed. `lab.world576.composition` composes them.

An image has 24 x 24 patches of 14 pixels and contains

* *objects* of `lab.world576.kinds.KINDS`, turned and in several sizes. Questions are about objects.
* *signs* with a word or a number. A sign is an object, too. Nothing ever hides it.
* *distractors*, which are large and never asked about, in crowded scenes.

Things may hide one another. Each thing shows at least `LEAST_VISIBLE` of its opaque pixels, else the scene is sampled
anew. A scene is *tinted*, with each object in one of eight colours and grey distractors, or *natural*, with the emoji's
own colours and white signs. No question of a natural scene is about a colour.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from lab.scenes import SPLITS, Split, object_looks
from lab.world576.atlas import SPRITE_INDEX, masks
from lab.world576.kinds import CATEGORY, COLORS, DISTRACTORS, KINDS, SIGN, TEXTS, WORDS

IMAGE_SIZE: Final = 336
PATCH_SIZE: Final = 14
GRID: Final = IMAGE_SIZE // PATCH_SIZE
NUM_PATCHES: Final = GRID * GRID

BACKGROUNDS: Final = ("gradient", "clouds", "stripes", "checks", "speckles")
MAX_THINGS: Final = 20
MAX_SIGNS: Final = 3

LEAST_VISIBLE: Final = 0.4
SAMPLES: Final = 4 * GRID  # samples of the visibility test along a side: 4 x 4 in each patch
NATURAL_SHARE: Final = 0.3
_NEAR_SHARE: Final = 0.25
_APART: Final = 0.86  # least distance of things that keep apart; 1: their squares touch
_STEP: Final = IMAGE_SIZE / SAMPLES


@dataclass(frozen=True)
class Thing:
    """One object, sign or distractor; `x`, `y` is the centre and `size` the side of its sprite, in pixels."""

    kind: str
    look: str  # a colour of `COLORS`, or empty: natural, white (signs) or grey (distractors)
    x: int
    y: int
    size: int
    angle: int = 0  # degrees, clockwise
    mirrored: bool = False
    text: str = ""  # on signs only
    visible: float = 1.0  # share of its opaque pixels that nothing hides

    @property
    def distractor(self) -> bool:
        """Whether it is never asked about."""
        return self.kind in DISTRACTORS

    @property
    def category(self) -> str:
        """Category of the kind; empty for signs and distractors."""
        return CATEGORY.get(self.kind, "")

    @property
    def name(self) -> str:
        """Name in descriptions and answers, such as "red cat"."""
        return f"{self.look} {self.kind}".strip()


@dataclass(frozen=True)
class Scene:
    """Content of an image, which `split` and `seed` determine; later `things` hide earlier ones."""

    split: Split
    seed: int
    background: str
    tinted: bool
    things: tuple[Thing, ...]

    @cached_property
    def objects(self) -> tuple[Thing, ...]:
        """Things that questions are about, signs included."""
        return tuple(thing for thing in self.things if not thing.distractor)

    @cached_property
    def distractors(self) -> tuple[Thing, ...]:
        """Conspicuous things that are never asked about."""
        return tuple(thing for thing in self.things if thing.distractor)

    @cached_property
    def in_reading_order(self) -> tuple[Thing, ...]:
        """Things by bands of a quarter of the height, and from left to right in a band."""
        return tuple(sorted(self.things, key=lambda thing: (thing.y * 4 // IMAGE_SIZE, thing.x, thing.y)))


def _samples(thing: Thing) -> tuple[slice, slice, npt.NDArray[np.bool_]]:
    """Rows and columns of the sample grid around a thing, and whether each sample is on an opaque pixel."""
    reach = thing.size * 0.71
    top, bottom = (int(max(0, (thing.y - reach) // _STEP)), int(min(SAMPLES, (thing.y + reach) // _STEP + 1)))
    left, right = (int(max(0, (thing.x - reach) // _STEP)), int(min(SAMPLES, (thing.x + reach) // _STEP + 1)))
    dy = ((np.arange(top, bottom) + 0.5) * _STEP - thing.y)[:, None]
    dx = ((np.arange(left, right) + 0.5) * _STEP - thing.x)[None]
    cos, sin = np.cos(np.deg2rad(thing.angle)), np.sin(np.deg2rad(thing.angle))
    mask = masks()[SPRITE_INDEX[thing.kind]]
    side = mask.shape[0]
    u = (cos * dx + sin * dy) * (-1 if thing.mirrored else 1) / thing.size * side + side / 2
    v = (cos * dy - sin * dx) / thing.size * side + side / 2
    inside = (u >= 0) & (u < side) & (v >= 0) & (v < side)
    column, row = np.clip(u.astype(np.int64), 0, side - 1), np.clip(v.astype(np.int64), 0, side - 1)
    return slice(top, bottom), slice(left, right), inside & mask[row, column]


def thing_of_sample(things: tuple[Thing, ...]) -> tuple[npt.NDArray[np.int8], list[float]]:
    """Index of the thing at each sample, -1 for background, `[SAMPLES, SAMPLES]`, and each thing's visible share."""
    seen = np.full((SAMPLES, SAMPLES), -1, dtype=np.int8)
    opaque = []
    for index, thing in enumerate(things):
        rows, columns, mask = _samples(thing)
        seen[rows, columns][mask] = index
        opaque.append(int(mask.sum()))
    shown = np.bincount(seen[seen >= 0].astype(np.int64), minlength=len(things))
    return seen, [int(count) / max(1, total) for count, total in zip(shown, opaque, strict=True)]


def thing_of_patch(scene: Scene) -> npt.NDArray[np.int8]:
    """Index of the thing that most of a patch's samples show, -1 where fewer than a quarter show one, `[576]`."""
    seen, _ = thing_of_sample(scene.things)
    cells = seen.reshape(GRID, 4, GRID, 4).swapaxes(1, 2).reshape(NUM_PATCHES, 16)
    counts = np.stack([(cells == index).sum(1) for index in range(len(scene.things))], axis=1)
    return np.where(counts.max(1) >= 4, counts.argmax(1), -1).astype(np.int8)


def sample_scene(split: Split, seed: int) -> Scene:
    """Scene of a seed. `simple` has 1-2 large objects, `easy` 3-6, `crowded` 8-20 things with 2-3 distractors.

    Args:
        split: split of the scene.
        seed: seed of the scene.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), 576])
    tinted = bool(rng.random() >= NATURAL_SHARE)
    background = str(rng.choice(BACKGROUNDS))
    while True:
        things = _place(_contents(split, tinted, rng), rng)
        if things is None:
            continue
        _, shares = thing_of_sample(things)
        if min(shares) >= LEAST_VISIBLE:
            shown = tuple(replace(thing, visible=share) for thing, share in zip(things, shares, strict=True))
            return Scene(split, seed, background, tinted, shown)


def _contents(split: Split, tinted: bool, rng: np.random.Generator) -> list[Thing]:
    """Things of a scene at no position yet, in the order in which they are painted: large ones first, signs last."""
    num_distractors = int(rng.integers(2, 4)) if split == "crowded" else 0
    fewest, most = {"simple": (1, 2), "easy": (3, 6), "crowded": (8, MAX_THINGS)}[split]
    count = int(rng.integers(fewest, most + 1)) - num_distractors
    num_signs = min(int(rng.integers(0, MAX_SIGNS + 1)), count // 2) if split != "simple" else int(rng.random() < 0.3)
    colors = tuple(COLORS)
    looks = object_looks(count - num_signs, KINDS, colors, 5, (0.45, 0.75), rng)
    things = [
        Thing(str(rng.choice(DISTRACTORS)), "", 0, 0, int(rng.integers(76, 105)), *_turn(rng))
        for _ in range(num_distractors)
    ]
    for kind, color in looks:
        large = split == "simple" or rng.random() < (0.5 if split == "easy" else 0.15)
        size = int(rng.integers(68, 105)) if large else int(rng.integers(36, 61))
        things.append(Thing(kind, color if tinted else "", 0, 0, size, *_turn(rng)))
    things.sort(key=lambda thing: -thing.size)
    for _ in range(num_signs):
        text = str(rng.choice(WORDS)) if rng.random() < 0.5 else TEXTS[int(rng.integers(len(WORDS), len(TEXTS)))]
        look = str(rng.choice(colors)) if tinted else ""
        things.append(Thing(SIGN, look, 0, 0, int(rng.integers(66, 89)), int(rng.integers(-8, 9)), text=text))
    return things


def _turn(rng: np.random.Generator) -> tuple[int, bool]:
    return int(rng.integers(-30, 31)), bool(rng.random() < 0.5)


def _place(things: list[Thing], rng: np.random.Generator) -> tuple[Thing, ...] | None:
    """The things with positions inside the image, or None if there is no room.

    Most things keep apart. One in four is put so near to an earlier one that it may hide a part of it, but no sign is.
    """
    placed: list[Thing] = []
    for thing in things:
        half_width = thing.size // 2 + 1
        half_height = thing.size * 3 // 8 if thing.kind == SIGN else half_width
        xs = rng.integers(half_width, IMAGE_SIZE - half_width, 60)
        ys = rng.integers(half_height, IMAGE_SIZE - half_height, 60)
        least = _APART
        if placed and thing.kind != SIGN and rng.random() < _NEAR_SHARE:
            other = placed[int(rng.integers(len(placed)))]
            angle, distance = rng.random(20) * 2 * np.pi, 0.5 + 0.3 * rng.random(20)
            reach = distance * (thing.size + other.size) / 2
            near_x, near_y = other.x + reach * np.cos(angle), other.y + reach * np.sin(angle)
            xs[:20] = np.clip(near_x, half_width, IMAGE_SIZE - half_width - 1)
            ys[:20] = np.clip(near_y, half_height, IMAGE_SIZE - half_height - 1)
            least = 0.45
        for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
            if all(
                _apart(x, y, thing, other) >= (1.15 if thing.kind == other.kind == SIGN else least) for other in placed
            ):
                placed.append(replace(thing, x=x, y=y))
                break
        else:
            return None
    return tuple(placed)


def _apart(x: int, y: int, thing: Thing, other: Thing) -> float:
    """Distance of two centres in units at which two squares touch; signs are half as high as wide."""
    height = (thing.size * (0.5 if thing.kind == SIGN else 1)) + (other.size * (0.5 if other.kind == SIGN else 1))
    return max(abs(x - other.x) * 2 / (thing.size + other.size), abs(y - other.y) * 2 / height)
