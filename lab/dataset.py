"""Training images on disk: rendered once from seeds, memory-mapped, used by both trainings.

`python -m lab data` fills a folder: `images.npy` (`[N, 144, 144, 3]` uint8), `thing_of_patch.npy` (`[N, 144]` int8: the
thing that each patch belongs to), `things.npy` (`[N, 14, 6]` int16), `concepts.npy` (`[N, num concepts]` bool) and the
scenes themselves.
"""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lab.captions import CONCEPTS, concept_labels
from lab.render import label_patches, render_array
from lab.scenes import (
    COLORS,
    DISTRACTOR_SHAPES,
    GRID,
    IMAGE_SIZE,
    LETTERS,
    SHAPES,
    TEXTURES,
    Scene,
    Split,
    sample_scene,
)

ALL_SHAPES = SHAPES + DISTRACTOR_SHAPES
ALL_LOOKS = COLORS + TEXTURES
MAX_THINGS = 14
FIELDS = ("shape", "look", "letter", "x", "y", "size")
# Per 12 images: one simple, five easy, six crowded.
_CYCLE: tuple[Split, ...] = ("simple",) + ("easy", "crowded") * 5 + ("crowded",)
_CHUNK = 500


@dataclass(frozen=True)
class Dataset:
    """Memory-mapped arrays of the training images."""

    images: npt.NDArray[np.uint8]
    thing_of_patch: npt.NDArray[np.int8]
    things: npt.NDArray[np.int16]
    concepts: npt.NDArray[np.bool_]
    scenes: list[Scene]

    def __len__(self) -> int:
        return len(self.scenes)


def training_split(index: int) -> Split:
    """Split of training image `index`, whose seed is the index itself."""
    return _CYCLE[index % len(_CYCLE)]


def _thing_fields(scene: Scene) -> npt.NDArray[np.int16]:
    fields = np.full((MAX_THINGS, len(FIELDS)), -1, dtype=np.int16)
    for row, thing in enumerate(scene.things):
        letter = LETTERS.index(thing.letter) if thing.letter else len(LETTERS)
        fields[row] = (
            ALL_SHAPES.index(thing.shape), ALL_LOOKS.index(thing.look), letter, thing.x, thing.y, thing.size
        )  # fmt: skip
    return fields


def _fill(folder: str, start: int, stop: int) -> list[Scene]:
    arrays = {name: np.load(Path(folder) / f"{name}.npy", mmap_mode="r+") for name in _layout(0)}
    scenes = []
    for index in range(start, stop):
        scene = sample_scene(training_split(index), index)
        arrays["images"][index] = render_array(scene)
        arrays["thing_of_patch"][index] = label_patches(scene)
        arrays["things"][index] = _thing_fields(scene)
        arrays["concepts"][index] = concept_labels(scene)
        scenes.append(scene)
    return scenes


def _layout(count: int) -> dict[str, tuple[tuple[int, ...], type]]:
    return {
        "images": ((count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8),
        "thing_of_patch": ((count, GRID * GRID), np.int8),
        "things": ((count, MAX_THINGS, len(FIELDS)), np.int16),
        "concepts": ((count, len(CONCEPTS)), np.bool_),
    }


def build(folder: Path, count: int, workers: int) -> None:
    """Renders `count` training images into `folder` with `workers` processes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (shape, dtype) in _layout(count).items():
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
    starts = range(0, count, _CHUNK)
    scenes: list[Scene] = []
    with ProcessPoolExecutor(workers) as pool:
        stops = [min(start + _CHUNK, count) for start in starts]
        for done in pool.map(_fill, [str(folder)] * len(starts), starts, stops):
            scenes += done
            print(f"rendered {len(scenes)}/{count}", flush=True)
    (folder / "scenes.pickle").write_bytes(pickle.dumps(scenes))


def load(folder: Path) -> Dataset:
    """Dataset in a folder of `build`."""
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _layout(0)}
    # `build` has written this file on this machine; checkpoints are never pickled.
    scenes = pickle.loads((folder / "scenes.pickle").read_bytes())  # noqa: S301
    return Dataset(arrays["images"], arrays["thing_of_patch"], arrays["things"], arrays["concepts"], scenes)
