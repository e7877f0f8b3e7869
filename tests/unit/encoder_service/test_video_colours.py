"""Colours of videos: matrices, ranges, depths, HDR, layouts of pixels, transparency."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from fovea.errors import UnsupportedMedia
from tests.unit.encoder_service.hdr_files import HEVC_PQ, VP9_HLG
from tests.unit.encoder_service.video_files import (
    QUADRANTS,
    corners,
    first_frame,
    quadrants,
    refused,
    video,
)

BARS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (128, 128, 128), (20, 200, 90))
# Shares of red and blue in brightness, and the number of the matrix in ITU-T H.273.
MATRICES = {"BT.601": (0.299, 0.114, 6), "BT.709": (0.2126, 0.0722, 1), "BT.2020": (0.2627, 0.0593, 9)}
FINE = {"crf": "4"}


def bars(matrix: str, *, bits: int, is_full: bool, sampled: bool) -> av.VideoFrame:
    """A frame whose planes are computed here, by the definition of the matrix and of the range."""
    red_share, blue_share, number = MATRICES[matrix]
    red, green, blue = np.repeat(np.array(BARS) / 255, 16, axis=0).T
    bright = red_share * red + (1 - red_share - blue_share) * green + blue_share * blue
    differences = (blue - bright) / (2 - 2 * blue_share), (red - bright) / (2 - 2 * red_share)
    step, most = 2 ** (bits - 8), 2**bits - 1
    planes = [bright * most if is_full else (16 + 219 * bright) * step]
    planes += [128 * step + part * (most if is_full else 224 * step) for part in differences]
    layout = ("yuv420p" if sampled else "yuv444p") + ("" if bits == 8 else "10le")
    frame = av.VideoFrame(len(red), 64, layout)
    for place, (plane, row) in enumerate(zip(frame.planes, planes, strict=True)):
        values = row[:: 2 if sampled and place else 1].round().clip(0, most).astype(np.uint8 if bits == 8 else "<u2")
        line = values.tobytes().ljust(plane.line_size, b"\0")
        plane.update(line * plane.height)
    frame.colorspace, frame.color_range = number, 2 if is_full else 1
    return frame


def error_of_bars(file: bytes) -> int:
    row = np.asarray(first_frame(file)).astype(int)[32]
    return int(np.abs(row[8::16] - BARS).max())


@pytest.mark.parametrize("is_full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(
    ("container", "codec", "bits", "sampled"),
    [
        ("mp4", "libx264", 8, True),
        ("mp4", "libx264", 8, False),
        ("mp4", "libx264", 10, True),
        ("webm", "libvpx-vp9", 8, True),
        ("mp4", "libsvtav1", 10, True),
    ],
)
def test_matrix_and_range_are_those_of_the_file(
    container: str, codec: str, bits: int, sampled: bool, matrix: str, is_full: bool
) -> None:
    frame = bars(matrix, bits=bits, is_full=is_full, sampled=sampled)
    file = video(
        [frame] * 2,
        container=container,
        codec=codec,
        pixel_format=frame.format.name,
        options={} if codec == "libsvtav1" else FINE,
        colorspace=frame.colorspace,
        color_range=frame.color_range,
    )
    assert error_of_bars(file) <= (12 if codec == "libsvtav1" else 4)


@pytest.mark.parametrize(("file", "curve"), [(HEVC_PQ, 16), (VP9_HLG, 18)], ids=["HEVC PQ", "VP9 HLG"])
def test_hdr_keeps_its_values(file: bytes, curve: int) -> None:
    with av.open(io.BytesIO(file)) as container:
        frame = next(container.decode(video=0))
        assert (frame.format.name, frame.color_trc) == ("yuv420p10le", curve)
    assert error_of_bars(file) <= 4


def test_hdr_of_av1_keeps_its_values() -> None:
    frame = bars("BT.2020", bits=10, is_full=False, sampled=True)
    settings = {"colorspace": 9, "color_range": 1, "color_trc": 16, "color_primaries": 9}
    file = video([frame] * 2, codec="libsvtav1", pixel_format="yuv420p10le", **settings)
    assert error_of_bars(file) <= 12


def tagged(file: bytes, matrix: int, primaries: int) -> bytes:
    """An H.264 file that declares another matrix and primaries."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(file)) as source, av.open(buffer, "w", format="mp4") as output:
        stream = source.streams.video[0]
        copy: Any = output.add_stream_from_template(stream)
        names = f"matrix_coefficients={matrix}:colour_primaries={primaries}"
        change = BitStreamFilterContext(f"h264_metadata={names}", stream, copy)
        for packet in source.demux(stream):
            for changed in change.filter(packet):
                changed.stream = copy
                output.mux(changed)
    return buffer.getvalue()


@pytest.mark.parametrize(("matrix", "primaries", "like"), [(10, 9, "BT.2020"), (12, 1, "BT.709"), (13, 9, "BT.2020")])
def test_a_matrix_by_another_name_is_read(matrix: int, primaries: int, like: str) -> None:
    frame = bars(like, bits=8, is_full=False, sampled=False)
    file = video([frame] * 2, pixel_format="yuv444p", options=FINE, color_range=1)
    assert error_of_bars(tagged(file, matrix, primaries)) <= 4


@pytest.mark.parametrize("matrix", [8, 11, 14])
def test_colours_that_cannot_be_read_are_refused_and_named(matrix: int) -> None:
    refused(
        tagged(video([quadrants()] * 2), matrix, 9), UnsupportedMedia, "YCgCo or ICtCp; accepted: RGB, and YCbCr by"
    )


@pytest.mark.parametrize("pixel_format", ["gray", "yuv422p10le", "yuv420p10le", "yuv444p10le"])
def test_layouts_of_pixels(pixel_format: str) -> None:
    image = first_frame(video([quadrants()] * 2, pixel_format=pixel_format))
    if pixel_format == "gray":
        assert np.ptp(np.asarray(image), axis=2).max() == 0
    else:
        assert corners(image) == QUADRANTS


@pytest.mark.parametrize(("codec", "pixel_format"), [("prores_ks", "yuva444p10le"), ("png", "rgba")])
def test_transparent_areas_of_a_film_become_white(codec: str, pixel_format: str) -> None:
    pixels = np.zeros((64, 128, 4), np.uint8)
    pixels[:, :64] = (255, 0, 0, 255)
    frame = av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format=pixel_format)
    profile = {"profile": "4444"} if codec == "prores_ks" else {}
    file = video([frame] * 2, container="mov", codec=codec, pixel_format=pixel_format, options=profile)
    assert corners(first_frame(file)) == ("red", "white", "red", "white")
