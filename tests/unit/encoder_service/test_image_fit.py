"""Image fits: `pad` is LLaVA's expand2square bit for bit, and `viewed` says where the tower's pixels are in it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from encoder_service.media.decoding import MediaDecoder
from encoder_service.media.videos import FrameList
from encoder_service.models.base import EncoderModel
from encoder_service.models.frames import FrameProcessor
from encoder_service.models.media import MediaOptions, SquareMedia
from encoder_service.models.media_features import VideoFrames
from encoder_service.models.preprocessing import ImageProcessor
from fovea.errors import TooLarge
from fovea.media import images
from fovea.wire.image_fits import ImageFit

SIDE = 56
PAD = MediaOptions(image_fit="pad")
SHAPES = [
    (200, 90),
    (90, 333),
    (56, 56),
    (300, 300),
    (57, 55),
    (101, 38),
    (1, 1),
    (2, 1),
    (1, 7),
    (100, 1),
    (1200, 300),
]


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def expand2square(image: Image.Image, mean: list[float]) -> Image.Image:
    """As in haotian-liu/LLaVA, llava/mm_utils.py, in numpy."""
    color = tuple(int(x * 255) for x in mean)
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    if width == height:
        return image
    side = max(width, height)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = color
    if width > height:
        top = (width - height) // 2
        square[top : top + height] = pixels
    else:
        left = (height - width) // 2
        square[:, left : left + width] = pixels
    return Image.fromarray(square)


@pytest.mark.parametrize("family", ["llava", "video_llava"])
def test_pad_is_expand2square_before_the_checkpoints_processor(
    family: str, family_checkpoints: dict[str, Path], encoders: dict[str, EncoderModel]
) -> None:
    model, processor = encoders[family], CLIPImageProcessorPil.from_pretrained(family_checkpoints[family])
    shapes = [noise(size, seed) for seed, size in enumerate(SHAPES)]
    squares = [expand2square(image, processor.image_mean) for image in shapes]
    want = torch.cat([processor(images=square, return_tensors="pt")["pixel_values"] for square in squares])
    got = model.pixel_values([model.media.with_options(PAD).image(image) for image in shapes])
    assert torch.equal(got, want)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 150), height=st.integers(1, 150))
def test_pad_is_expand2square_for_any_size(encoders: dict[str, EncoderModel], width: int, height: int) -> None:
    media, image = encoders["llava"].media, noise((width, height))
    square = expand2square(image, [0.48145466, 0.4578275, 0.40821073])
    assert np.array_equal(media.with_options(PAD).image(image).pixels, media.image(square).pixels)


def test_frames_are_padded_with_the_video_processors_mean(tmp_path: Path) -> None:
    mean = [0.1, 0.6, 0.33]
    CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_mean=mean
    ).save_pretrained(tmp_path)
    processor = FrameProcessor(tmp_path, SIDE)
    for size in [(70, 61), (31, 200), (56, 56)]:
        frames = [noise(size, seed) for seed in range(2)]
        want = processor([expand2square(frame, mean) for frame in frames])
        assert np.array_equal(processor(frames, "pad"), want)


def test_a_square_image_has_the_same_pixels_with_both_fits(encoders: dict[str, EncoderModel]) -> None:
    media = encoders["llava"].media
    crop, pad = (one.image(noise((91, 91))) for one in (media, media.with_options(PAD)))
    assert np.array_equal(crop.pixels, pad.pixels)
    assert crop.layout.viewed == pad.layout.viewed


def box_of(media: Any, size: tuple[int, int]) -> tuple[float, float, float, float]:
    viewed = media.image(noise(size)).layout.viewed
    return viewed.left, viewed.top, viewed.right, viewed.bottom


@pytest.mark.parametrize(
    ("family", "fit", "size", "box"),
    [
        ("llava", "crop", (1200, 300), (0.375, 0, 0.625, 1)),
        ("llava", "crop", (300, 1200), (0, 0.375, 1, 0.625)),
        ("llava", "crop", (64, 64), (0, 0, 1, 1)),
        ("llava", "pad", (1200, 300), (0, -1.5, 1, 2.5)),
        ("llava", "pad", (300, 1200), (-1.5, 0, 2.5, 1)),
        ("llava", "pad", (3, 2), (0, 0, 1, 1.5)),  # half a pixel is rounded down: no row above, one below
        ("video_llava", "pad", (1200, 300), (0, -1.5, 1, 2.5)),
        ("llava_next", "crop", (1200, 300), (0, 0, 1, 1)),
        ("qwen2_5_vl", "crop", (1200, 300), (0, 0, 1, 1)),
        ("qwen3_vl", "crop", (1200, 300), (0, 0, 1, 1)),
    ],
)
def test_the_viewed_area(
    family: str,
    fit: ImageFit,
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    encoders: dict[str, EncoderModel],
) -> None:
    assert box_of(encoders[family].media.with_options(MediaOptions(fit)), size) == pytest.approx(box, abs=1e-12)


def test_the_viewed_area_of_frames(encoders: dict[str, EncoderModel]) -> None:
    media = encoders["video_llava"].media
    video = VideoFrames((noise((1200, 300)),) * 2)
    crop, pad = (one.video(video).layout.viewed for one in (media, media.with_options(PAD)))
    assert (crop.left, crop.top, crop.right, crop.bottom) == (0.375, 0, 0.625, 1)
    assert (pad.left, pad.top, pad.right, pad.bottom) == (0, -1.5, 1, 2.5)


@pytest.mark.parametrize(
    "config",
    [
        {"size": {"shortest_edge": SIDE}},
        {"size": {"shortest_edge": SIDE + 13}},  # the crop takes something off both sides
        {"size": {"shortest_edge": SIDE - 20}},  # the crop adds a black border
        {"size": {"height": SIDE, "width": SIDE}},
        {"size": {"height": SIDE + 9, "width": SIDE + 30}},
        {"size": {"shortest_edge": SIDE, "longest_edge": 2 * SIDE}},
        {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False},
        {"do_resize": False},
    ],
    ids=str,
)
def test_a_block_of_the_image_is_where_the_viewed_area_says(config: dict[str, Any], tmp_path: Path) -> None:
    CLIPImageProcessorPil(
        **config, crop_size={"height": SIDE, "width": SIDE}, resample=Image.Resampling.BILINEAR
    ).save_pretrained(tmp_path)
    processor = ImageProcessor(tmp_path, SIDE)
    for fit in processor.fits:
        for size in [(401, 160), (161, 402), (200, 200)]:
            image = Image.new("RGB", size, "black")
            block = (size[0] // 2 - 20, size[1] // 2 - 12, size[0] // 2 + 25, size[1] // 2 + 19)
            image.paste("white", block)
            viewed = processor.viewed(size, fit)
            want = [
                (block[0] / size[0] - viewed.left) / (viewed.right - viewed.left) * SIDE,
                (block[1] / size[1] - viewed.top) / (viewed.bottom - viewed.top) * SIDE,
                (block[2] / size[0] - viewed.left) / (viewed.right - viewed.left) * SIDE,
                (block[3] / size[1] - viewed.top) / (viewed.bottom - viewed.top) * SIDE,
            ]
            rows, columns = (processor(image, fit=fit)[0] > 180).nonzero()
            got = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert got == pytest.approx(np.clip(want, 0, SIDE), abs=1), (fit, size)


def test_a_processor_that_cuts_nothing_has_nothing_to_pad(tmp_path: Path) -> None:
    crop = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size=crop, crop_size=crop, do_center_crop=False).save_pretrained(tmp_path)
    media = SquareMedia(ImageProcessor(tmp_path, SIDE), (4, 4))
    assert media.image_fits == ("crop",)
    assert box_of(media, (1200, 300)) == (0, 0, 1, 1)


def test_families_that_read_the_whole_image_do_not_pad(encoders: dict[str, EncoderModel]) -> None:
    fits = {family: encoder.media.image_fits for family, encoder in encoders.items()}
    both, one = ("crop", "pad"), ("crop",)
    assert fits == {"llava": both, "video_llava": both, "llava_next": one, "qwen2_5_vl": one, "qwen3_vl": one}


def smooth_jpeg(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    noise((5, 4)).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(1001, 333), (333, 1001), (1201, 130), (640, 480), (450, 449), (91, 700)])
def test_a_reduced_image_on_its_square_has_almost_the_pixels_of_the_whole(
    size: tuple[int, int], tmp_path: Path
) -> None:
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        tmp_path
    )
    file = smooth_jpeg(size)
    whole, reduced = (
        MediaDecoder(SquareMedia(ImageProcessor(tmp_path, SIDE), (4, 4), reduces_jpeg=on), 2**24, 10**7)(file, PAD)
        for on in (False, True)
    )
    assert reduced.layout == whole.layout
    assert np.abs(reduced.pixels.astype(int) - whole.pixels).mean() < 1.5
    media = SquareMedia(ImageProcessor(tmp_path, SIDE), (4, 4), reduces_jpeg=True).with_options(PAD)
    image, _ = images.decode_reduced(file, max_bytes=2**24, max_pixels=10**7, needed_size=media.needed_size)
    exact = [SIDE * side / max(size) for side in size]
    assert all(side >= least for side, least in zip(image.size, exact, strict=True))
    assert max(image.size) < max(size)


def test_a_square_with_too_many_pixels_is_refused(encoders: dict[str, EncoderModel]) -> None:
    decode = MediaDecoder(encoders["video_llava"].media, 2**24, 100_000)
    file = png(noise((400, 200)))
    assert decode(file).layout.viewed.left == 0.25
    with pytest.raises(TooLarge, match="400 x 400 with image_fit pad; at most 100,000") as caught:
        decode(file, PAD)
    assert caught.value.param == "image"
    assert "image_fit crop" in caught.value.message


def test_a_frame_whose_square_has_too_many_pixels_is_refused(encoders: dict[str, EncoderModel]) -> None:
    decode = MediaDecoder(encoders["video_llava"].media, 2**24, 10**6)
    frames = FrameList((png(Image.new("RGB", (5000, 60))),))
    assert decode(frames).layout.is_video
    with pytest.raises(TooLarge, match="5,000 x 5,000 with image_fit pad") as caught:
        decode(frames, PAD)
    assert caught.value.param == "video"
