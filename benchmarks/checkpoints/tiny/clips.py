"""Short videos of a moving shape, as files and as frames."""

from __future__ import annotations

import dataclasses
import io
from typing import Any, Final

import av
import numpy as np
from PIL import Image

from lab.render import render
from lab.scenes import IMAGE_SIZE, sample_scene

__all__ = ["clip_file", "clip_frames"]

# Codec and pixel format that are usual in a container, by the name of FFmpeg's muxer.
_CODECS: Final = {
    "mp4": ("libx264", "yuv420p"),
    "webm": ("libvpx-vp9", "yuv420p"),
    "matroska": ("libx264", "yuv420p"),
    "avi": ("mpeg4", "yuv420p"),
    "mov": ("mpeg4", "yuv420p"),
    "gif": ("gif", "rgb8"),
}
_SIZE: Final = (IMAGE_SIZE, IMAGE_SIZE)


def clip_frames(num_frames: int = 16, *, seed: int = 0, size: tuple[int, int] = _SIZE) -> list[Image.Image]:
    """Frames of `size` (width, height) in which the first object of a scene moves from the left edge to the right."""
    scene = sample_scene("simple", seed)
    thing = scene.things[0]
    half = thing.size // 2 + 1
    frames = []
    for x in np.linspace(half, IMAGE_SIZE - half - 1, num_frames).astype(int):
        moved = dataclasses.replace(thing, x=int(x), y=IMAGE_SIZE // 2)
        frames.append(render(dataclasses.replace(scene, things=(moved, *scene.things[1:]))).resize(size))
    return frames


def clip_file(
    num_frames: int = 16,
    *,
    frames_per_second: int = 8,
    container: str = "mp4",
    seed: int = 0,
    size: tuple[int, int] = _SIZE,
) -> bytes:
    """A video file of the same frames; `container` is mp4, webm, matroska, avi, mov or gif."""
    codec, pixel_format = _CODECS[container]
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=frames_per_second)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        for image in clip_frames(num_frames, seed=seed, size=size):
            output.mux(stream.encode(av.VideoFrame.from_image(image).reformat(format=pixel_format)))
        output.mux(stream.encode())
    return file.getvalue()
