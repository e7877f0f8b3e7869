"""Display matrices: the eight orientations, in every container that has them, and matrices that are none of them."""

from __future__ import annotations

import io
from typing import Any

import av
import pytest
from av.bitstream import BitStreamFilterContext
from PIL import Image

from tests.unit.encoder_service.video_files import QUADRANTS, corners, first_frame, quadrants, video, with_matrix

ONE = 1 << 16
WIDTH, HEIGHT = 128, 64
# a, b, c, d: a pixel at (x, y) is shown at (a x + c y, b x + d y). Beside it what the corners show then.
MATRICES = {
    "upright": ((1, 0, 0, 1), "red green blue white"),
    "mirrored": ((-1, 0, 0, 1), "green red white blue"),
    "upside down": ((-1, 0, 0, -1), "white blue green red"),
    "mirrored upside down": ((1, 0, 0, -1), "blue white red green"),
    "rows to columns": ((0, 1, 1, 0), "red blue green white"),
    "clockwise": ((0, 1, -1, 0), "blue red white green"),
    "rows to columns, upside down": ((0, -1, -1, 0), "white green blue red"),
    "counterclockwise": ((0, -1, 1, 0), "green white red blue"),
}
FILE = video([quadrants(WIDTH, HEIGHT)] * 3)


def shows(file: bytes, name: str) -> bool:
    (a, *_), want = MATRICES[name]
    image = first_frame(file)
    return corners(image) == tuple(want.split()) and image.size == ((WIDTH, HEIGHT) if a else (HEIGHT, WIDTH))


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("scale", [ONE, ONE // 2, 3 * ONE])
@pytest.mark.parametrize("moved", [(0, 0), (WIDTH, HEIGHT), (-7, 2**30)])
def test_all_eight_orientations_whatever_their_scale_and_offset(name: str, scale: int, moved: tuple[int, int]) -> None:
    a, b, c, d = MATRICES[name][0]
    file = with_matrix(FILE, a * scale, b * scale, 0, c * scale, d * scale, 0, *moved, 1 << 30)
    assert shows(file, name)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize(("container", "codec"), [("mov", "mpeg4"), ("matroska", "libx264"), ("webm", "libvpx")])
def test_all_eight_in_other_containers(name: str, container: str, codec: str) -> None:
    a, b, c, d = MATRICES[name][0]
    matrix = (a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)
    file = video(
        [quadrants(WIDTH, HEIGHT)] * 3,
        container=container,
        codec=codec,
        prepare=lambda stream: stream.set_display_matrix(matrix),
    )
    assert shows(file, name)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx-vp9")])
def test_a_file_without_a_matrix_stands_as_it_is_stored(container: str, codec: str) -> None:
    assert shows(video([quadrants(WIDTH, HEIGHT)] * 3, container=container, codec=codec), "upright")


@pytest.mark.parametrize(
    "matrix",
    [
        (0,) * 9,
        (46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30),
        (123, -77777, 3, 2**31 - 1, -(2**31), 9, 1, 2, 3),
        (ONE, 0, 0, 0, 0, 0, 0, 0, 1 << 30),
        (-(2**31),) * 9,
    ],
    ids=["zeros", "an eighth of a turn", "chance", "a line", "extreme"],
)
def test_a_matrix_that_is_none_of_the_eight_turns_nothing(matrix: tuple[int, ...]) -> None:
    assert corners(first_frame(with_matrix(FILE, *matrix))) == QUADRANTS


def test_a_matrix_that_is_nearly_one_of_the_eight_is_that() -> None:
    assert shows(with_matrix(FILE, 60, ONE, 0, -ONE, 60, 0, 0, 0, 1 << 30), "clockwise")


def test_orientation_within_the_stream_is_applied_to_the_frames() -> None:
    """H.264 carries it in a message of its own; the file has no matrix."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(FILE)) as source, av.open(buffer, "w", format="mp4") as output:
        stream = source.streams.video[0]
        copy: Any = output.add_stream_from_template(stream)
        change = BitStreamFilterContext(
            "h264_metadata=display_orientation=insert:rotate=0:flip=horizontal", stream, copy
        )
        for packet in source.demux(stream):
            for changed in change.filter(packet):
                changed.stream = copy
                output.mux(changed)
    assert shows(buffer.getvalue(), "mirrored")


def test_exif_among_the_frames_of_a_camera_does_not_spoil_them() -> None:
    exif, jpeg = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(quadrants(WIDTH, HEIGHT)).save(jpeg, "JPEG", quality=95, exif=exif)
    plain, buffer = (
        video([quadrants(WIDTH, HEIGHT)], container="avi", codec="mjpeg", pixel_format="yuvj420p"),
        io.BytesIO(),
    )
    with av.open(io.BytesIO(plain)) as source, av.open(buffer, "w", format="avi") as output:
        stream: Any = output.add_stream_from_template(source.streams.video[0])
        for number in range(3):
            packet = av.Packet(jpeg.getvalue())
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            output.mux(packet)
    assert shows(buffer.getvalue(), "clockwise")
