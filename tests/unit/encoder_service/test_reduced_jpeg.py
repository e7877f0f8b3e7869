"""JPEG images at a reduced scale: off unless asked for, never smaller than needed, with the layout of the full size."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from encoder_service.media.decoding import MediaDecoder
from encoder_service.models import load
from encoder_service.models.anyres import TileCutter
from encoder_service.models.base import EncoderModel, LoadOptions
from encoder_service.models.media import MediaProcessor, QwenMedia, SquareMedia, TiledMedia
from encoder_service.models.preprocessing import ImageProcessor
from encoder_service.models.qwen_pixels import QwenPixels
from encoder_service.settings import EncoderSettings
from fovea.errors import TooLarge
from fovea.media import images

SIDE = 56
LIMITS: dict[str, int] = {"max_bytes": 2**24, "max_pixels": 10**7}
CANVASES = [[56, 112], [112, 56], [112, 112]]
FAMILIES = ("llava", "llava_next", "qwen2_5_vl")


def smooth(size: tuple[int, int], form: str = "JPEG", **options: Any) -> bytes:
    """A file of soft colours, of which little is lost by any way of reducing it."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    image.save(buffer, form, **({"quality": 95} if form == "JPEG" else {}), **options)
    return buffer.getvalue()


@pytest.fixture
def media_of(tmp_path: Path) -> Callable[[str, bool], MediaProcessor]:
    def make(family: str, reduces_jpeg: bool) -> MediaProcessor:
        crop = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
        if family == "llava":
            CLIPImageProcessorPil(**crop).save_pretrained(tmp_path)
            return SquareMedia(ImageProcessor(tmp_path, SIDE), (4, 4), reduces_jpeg=reduces_jpeg)
        if family == "llava_next":
            LlavaNextImageProcessorPil(**crop, image_grid_pinpoints=CANVASES).save_pretrained(tmp_path)
            return TiledMedia(TileCutter(tmp_path, CANVASES, SIDE), (4, 4), reduces_jpeg)
        Qwen2VLImageProcessorPil(size={"shortest_edge": 4 * 784, "longest_edge": 30 * 784}).save_pretrained(tmp_path)
        config = SimpleNamespace(spatial_merge_size=2, patch_size=14, temporal_patch_size=2)
        return QwenMedia(QwenPixels(tmp_path, config), 2, reduces_jpeg)

    return make


@pytest.mark.parametrize("size", [(640, 480), (1001, 333), (333, 1001), (450, 449), (91, 700), (449, 457)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_reduced_image_has_the_layout_and_almost_the_pixels_of_the_whole(
    family: str, size: tuple[int, int], media_of: Callable[[str, bool], MediaProcessor]
) -> None:
    file = smooth(size)
    whole = MediaDecoder(media_of(family, False), *LIMITS.values())(file)
    reduced = MediaDecoder(media_of(family, True), *LIMITS.values())(file)
    assert (reduced.layout.num_inputs, reduced.layout.rows, reduced.layout.columns) == (
        whole.layout.num_inputs,
        whole.layout.rows,
        whole.layout.columns,
    )
    assert reduced.pixels.shape == whole.pixels.shape
    difference = np.abs(reduced.pixels.astype(int) - whole.pixels)
    assert difference.mean() < 1.5


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_reduced_image_is_at_least_as_large_as_needed_in_each_direction(
    family: str, turn: int, media_of: Callable[[str, bool], MediaProcessor]
) -> None:
    media = media_of(family, True)
    exif = Image.Exif()
    exif[0x0112] = turn
    for size in ((640, 481), (1200, 130), (57, 57), (113, 250)):
        file = smooth(size, exif=exif)
        image, full_size = images.decode_reduced(file, **LIMITS, needed_size=media.needed_size)
        assert full_size == images.decode(file, **LIMITS).size
        assert full_size == (size if turn < 5 else size[::-1])
        needed = media.needed_size(full_size)
        scale = max(1, round(full_size[0] / image.width))
        assert scale in (1, 2, 4, 8)
        assert scale == 1 or all(side >= least for side, least in zip(image.size, needed, strict=True))
        larger = [
            factor for factor in (2, 4, 8) if all(n * factor <= f for n, f in zip(needed, full_size, strict=True))
        ]
        assert scale == max(larger, default=1)


def test_other_formats_are_decoded_at_full_size() -> None:
    for form in ("PNG", "WEBP", "BMP", "GIF"):
        file = smooth((400, 300), form)
        image, full_size = images.decode_reduced(file, **LIMITS, needed_size=lambda size: (20, 20))
        assert image.size == full_size == (400, 300)
        assert image.tobytes() == images.decode(file, **LIMITS).tobytes()


def test_limits_count_the_pixels_of_the_full_size() -> None:
    with pytest.raises(TooLarge, match="400 x 300"):
        images.decode_reduced(smooth((400, 300)), max_bytes=2**24, max_pixels=100_000, needed_size=lambda size: (9, 9))


def test_it_is_off_by_default_and_changes_the_settings_fingerprint(checkpoints: Any, model: EncoderModel) -> None:
    assert EncoderSettings(model="m").jpeg_reduced_scale == "off"
    assert not model.media.reduces_jpeg
    options = {"text_tower": str(checkpoints.clip), "device": "cpu"}
    reducing = load(str(checkpoints.hub), LoadOptions(**options, reduces_jpeg=True))
    assert reducing.media.reduces_jpeg
    assert reducing.settings_fingerprint != model.settings_fingerprint
    assert reducing.fingerprint == model.fingerprint


@pytest.mark.parametrize("family", FAMILIES)
def test_a_description_says_how_jpeg_is_decoded(family: str, media_of: Callable[[str, bool], MediaProcessor]) -> None:
    assert media_of(family, True).describe() != media_of(family, False).describe()
