"""Pixels and pixel values of video frames, and what of a checkpoint decides them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoder_service.models.frames import FrameProcessor
from fovea.modeling.errors import CheckpointError

SIDE = 8
MEAN, STD = [0.5, 0.25, 0.125], [0.5, 0.25, 0.2]
CONFIG = {
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "image_mean": MEAN,
    "image_std": STD,
}


def write(folder: Path, name: str, config: dict[str, Any]) -> Path:
    (folder / name).write_text(json.dumps(config))
    return folder


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_a_frame_of_the_right_size_is_only_normalised(tmp_path: Path) -> None:
    frames = [noise(SIDE, SIDE), noise(SIDE, SIDE).transpose(Image.Transpose.ROTATE_90)]
    processor = FrameProcessor(write(tmp_path, "preprocessor_config.json", CONFIG), SIDE)
    pixels = np.stack([np.asarray(frame).transpose(2, 0, 1) for frame in frames])
    assert np.array_equal(processor(frames), pixels)
    want = (pixels.transpose(0, 2, 3, 1) / 255 - MEAN) / STD
    got = processor.pixel_table()[np.arange(3)[:, None, None], pixels]
    np.testing.assert_allclose(got, want.transpose(0, 3, 1, 2), atol=1e-6)


def test_the_middle_square_is_cut_out(tmp_path: Path) -> None:
    processor = FrameProcessor(write(tmp_path, "preprocessor_config.json", CONFIG), SIDE)
    for wide in (noise(13, SIDE), noise(SIDE, 14)):
        left, top = (wide.width - SIDE) // 2, (wide.height - SIDE) // 2
        middle = wide.crop((left, top, left + SIDE, top + SIDE))
        assert np.array_equal(processor([wide]), processor([middle]))


@pytest.mark.parametrize("resample", [2, 3])
def test_resizing_is_that_of_pillow_but_for_rounding(resample: int, tmp_path: Path) -> None:
    processor = FrameProcessor(write(tmp_path, "preprocessor_config.json", CONFIG | {"resample": resample}), SIDE)
    frame = noise(31, 20)
    width = int(SIDE * 31 / 20)
    small = frame.resize((width, SIDE), Image.Resampling(resample))
    levels = processor([frame]).astype(int) - processor([small])
    assert abs(levels).max() <= 1


def test_files_are_read_in_the_order_of_transformers(tmp_path: Path) -> None:
    def mean() -> list[float]:
        of_black: list[float] = (-FrameProcessor(tmp_path, SIDE).pixel_table()[:, 0]).tolist()
        return of_black

    ones = {"image_std": [1, 1, 1]}
    write(tmp_path, "preprocessor_config.json", CONFIG | ones)
    assert mean() == pytest.approx(MEAN)
    write(tmp_path, "video_preprocessor_config.json", CONFIG | ones | {"image_mean": [0.1, 0.2, 0.3]})
    assert mean() == pytest.approx([0.1, 0.2, 0.3])
    write(tmp_path, "processor_config.json", {"patch_size": 14})
    assert mean() == pytest.approx([0.1, 0.2, 0.3])
    nested = {"video_processor": CONFIG | ones | {"image_mean": [0.7, 0.8, 0.9]}}
    write(tmp_path, "processor_config.json", nested)
    assert mean() == pytest.approx([0.7, 0.8, 0.9])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop_size": {"height": 9, "width": 9}}, "takes 8 x 8"),
        ({"size": {"shortest_edge": 4}}, "takes 8 x 8"),
        ({"size": {"height": 8, "width": 8}}, "takes 8 x 8"),
        ({"do_resize": False}, "accepted: every step"),
        ({"resample": 0}, "resamples by 0; accepted: every step, 2 .bilinear., 3 .bicubic."),
    ],
)
def test_another_processor_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words):
        FrameProcessor(write(tmp_path, "preprocessor_config.json", CONFIG | changes), SIDE)


def test_a_checkpoint_without_a_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither"):
        FrameProcessor(tmp_path, SIDE)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        FrameProcessor(tmp_path, SIDE)
