"""Questions of the exactness benchmark: images of many shapes, several images, videos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from PIL import Image

from benchmarks.exactness.unsplit import Clip
from benchmarks.harness.images import noise_image, png

__all__ = ["UNKNOWN_SECONDS", "ExactnessCase", "exactness_cases"]

# Seconds per frame where a request does not name them, as in a list of frames over REST; transformers uses the same.
UNKNOWN_SECONDS: Final = 1 / 24

# Width and height: square, landscape, portrait, panoramas, strips at the largest proportion, tiny, huge, odd.
SHAPES: Final = (
    (56, 56),
    (336, 336),
    (640, 480),
    (480, 640),
    (1000, 100),
    (90, 900),
    (500, 5),
    (1, 1),
    (3, 2),
    (2400, 1800),
    (57, 55),
    (113, 40),
    (672, 1008),
)


@dataclass(frozen=True)
class ExactnessCase:
    """A question with images and videos, in the order of their marks."""

    name: str
    question: str
    images: tuple[Image.Image, ...] = ()
    clips: tuple[Clip, ...] = ()

    @cached_property
    def image_files(self) -> list[bytes]:
        """The images as PNG files."""
        return [png(image) for image in self.images]

    @cached_property
    def clip_files(self) -> list[list[bytes]]:
        """The frames of the videos as PNG files."""
        return [[png(frame) for frame in clip.frames] for clip in self.clips]


def exactness_cases(takes_videos: bool) -> Iterator[ExactnessCase]:
    """All cases of a family, those with videos only where it takes them."""
    for i, size in enumerate(SHAPES):
        yield ExactnessCase(f"{size[0]} x {size[1]}", "what colour is the cat on the mat?", (_image(size, i),))
    two = (_image((300, 200), 100), _image((64, 400), 101))
    yield ExactnessCase("two images, adjacent", "<image><image>what differs?", two)
    yield ExactnessCase("two images, apart", "this is a cat: <image> and this? <image> say it", two)
    yield ExactnessCase("three images, no marks", "how many objects?", (*two, _image((80, 80), 102)))
    if takes_videos:
        clips = [
            Clip(tuple(_image(size, seed + i) for i in range(count)), seconds)
            for size, seed, count, seconds in (((320, 240), 200, 8, 0.5), ((90, 200), 300, 4, UNKNOWN_SECONDS))
        ]
        yield ExactnessCase("video of 8 frames", "what happens in the video?", clips=(clips[0],))
        yield ExactnessCase("video of 4 frames", "what happens in the video?", clips=(clips[1],))
        yield ExactnessCase("an image and a video", "<image> is it in <video>?", two[:1], (clips[1],))


def _image(size: tuple[int, int], seed: int) -> Image.Image:
    return noise_image(size, np.random.default_rng(seed))
