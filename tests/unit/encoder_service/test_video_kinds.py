"""Videos as cameras, phones and browsers write them: colours, pixel shapes, covers, cuts; decoded as a player does."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from encoder_service.media.video_limits import VideoLimits
from encoder_service.media.videos import VideoFile, decode
from fovea.errors import InvalidRequest, TooLarge, UnsupportedMedia
from tests.unit.encoder_service.frame_samplings import EvenSampling
from tests.unit.encoder_service.video_files import (
    QUADRANTS,
    corners,
    first_frame,
    numbers,
    quadrants,
    refused,
    video,
    with_matrix,
)
from tests.unit.fovea.media.gif_files import gif

GREYS = [np.full((48, 64, 3), 20 + 18 * number, np.uint8) for number in range(12)]
ONE = 1 << 16


@pytest.mark.parametrize(
    ("aspect", "size"),
    [
        (Fraction(2), (256, 64)),
        (Fraction(1, 2), (128, 128)),
        (Fraction(64, 45), (182, 64)),
        (Fraction(8, 9), (128, 72)),
        (Fraction(1), (128, 64)),
        (Fraction(200), (128, 64)),
    ],
)
def test_pixels_that_are_no_squares_are_stretched(aspect: Fraction, size: tuple[int, int]) -> None:
    for container, codec in (("mp4", "libx264"), ("avi", "mpeg4"), ("matroska", "libx264")):
        file = video([quadrants()] * 2, container=container, codec=codec, sample_aspect_ratio=aspect)
        image = first_frame(file)
        assert image.size == size
        assert corners(image) == QUADRANTS


def test_a_film_is_stretched_before_it_is_turned() -> None:
    file = video([quadrants()] * 2, sample_aspect_ratio=Fraction(2))
    image = first_frame(with_matrix(file, 0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30))
    assert image.size == (64, 256)
    assert corners(image) == ("blue", "red", "white", "green")


def test_limits_apply_to_stretched_frames() -> None:
    file = video([quadrants()] * 2, sample_aspect_ratio=Fraction(2))
    decode(VideoFile(file, 2), EvenSampling(2), VideoLimits(max_frame_pixels=256 * 64))
    refused(file, TooLarge, "256 x 64 pixels", max_frame_pixels=256 * 64 - 1)
    refused(file, TooLarge, "2 frames of 256 x 64", max_pixels=2 * 256 * 64 - 1)
    long = video([quadrants(1600, 32)] * 2, sample_aspect_ratio=Fraction(4))
    refused(long, InvalidRequest, "6,400 x 32; its longer side")


@pytest.mark.parametrize(
    ("container", "codec", "pixel_format"),
    [
        ("mp4", "libx264", "yuv444p"),
        ("webm", "libvpx", "yuv420p"),
        ("webm", "libvpx-vp9", "yuv420p"),
        ("avi", "mjpeg", "yuvj420p"),
    ],
)
def test_odd_sizes_are_kept(container: str, codec: str, pixel_format: str) -> None:
    frames = [quadrants()[:63, :125].copy()] * 2
    image = first_frame(video(frames, container=container, codec=codec, pixel_format=pixel_format))
    assert image.size == (125, 63)
    assert corners(image) == QUADRANTS


# Covers


def with_cover(container: str) -> bytes:
    """A film and a yellow cover."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        film: Any = output.add_stream("libx264", rate=6)
        film.width, film.height, film.pix_fmt = 128, 64, "yuv420p"
        cover: Any = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 50, 50, "yuvj420p", Disposition.attached_pic
        yellow = np.full((50, 50, 3), (255, 255, 0), np.uint8)
        output.mux(cover.encode(av.VideoFrame.from_ndarray(yellow, "rgb24")))
        output.mux(cover.encode())
        for _ in range(4):
            output.mux(film.encode(av.VideoFrame.from_ndarray(quadrants(), "rgb24")))
        output.mux(film.encode())
    return buffer.getvalue()


def cover_first(mp4: bytes) -> bytes:
    """The box that holds the cover before those of the streams."""
    start = mp4.index(b"moov") - 4
    end = start + int.from_bytes(mp4[start : start + 4], "big")
    boxes, at = [], start + 8
    while at < end:
        size = int.from_bytes(mp4[at : at + 4], "big")
        boxes.append(mp4[at : at + size])
        at += size
    boxes.sort(key=lambda box: box[4:8] != b"udta")
    return mp4[: start + 8] + b"".join(boxes) + mp4[end:]


def test_a_cover_is_no_film_wherever_it_stands() -> None:
    file = with_cover("mp4")
    first = cover_first(file)
    with av.open(io.BytesIO(first)) as container:
        assert container.streams.video[0].disposition & Disposition.attached_pic
    assert corners(first_frame(file)) == corners(first_frame(first)) == QUADRANTS


def test_a_song_with_a_cover_is_no_video() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        sound: Any = output.add_stream("aac", rate=16000, layout="mono")
        cover: Any = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 50, 50, "yuvj420p", Disposition.attached_pic
        output.mux(cover.encode(av.VideoFrame(50, 50, "yuvj420p")))
        output.mux(cover.encode())
        for _ in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            output.mux(sound.encode(frame))
        output.mux(sound.encode())
    refused(buffer.getvalue(), UnsupportedMedia, "no video in it but a cover image; accepted: MP4")


# Cuts


def cut(file: bytes, container: str, packets: int) -> bytes:
    """The file without its first packets."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(file)) as source, av.open(buffer, "w", format=container) as output:
        stream = source.streams.video[0]
        copy: Any = output.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in source.demux(stream) if packet.size):
            if number >= packets:
                packet.stream = copy
                output.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("webm", "libvpx"), ("webm", "libvpx-vp9")])
def test_a_film_that_does_not_begin_with_a_key_frame_begins_with_the_next(container: str, codec: str) -> None:
    file = cut(video(GREYS, container=container, codec=codec, options={"g": "6", "bf": "0"}), container, 2)
    assert numbers(file, 3) == [6, 8, 10]


def test_frames_that_the_file_says_are_not_to_be_shown_are_not() -> None:
    """A phone's trimmed clip keeps what was before its first frame, and an edit list that skips it."""
    file = bytearray(video(GREYS, options={"bf": "0"}))
    at = file.index(b"elst") + 4 + 8 + 4  # after version, flags, count and the duration
    media_time = int.from_bytes(file[at : at + 4], "big")
    ticks = 12_288 // 6  # of the stream's clock from frame to frame
    file[at : at + 4] = (media_time + 5 * ticks).to_bytes(4, "big")
    assert numbers(bytes(file), 7) == [5, 6, 7, 8, 9, 10, 11]


def test_frames_are_counted_whatever_their_distance_in_time() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream: Any = output.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, milliseconds in zip(GREYS, (0, 10, 20, 30, 1000, 2000, 3000, 4000), strict=False):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    assert numbers(buffer.getvalue(), 4) == [0, 2, 4, 6]


# GIF, and images in the containers of videos


@pytest.mark.parametrize("clear", [None, 1])
@pytest.mark.parametrize("background", [0, 1])
def test_around_a_first_frame_that_is_smaller_than_the_canvas_all_is_white(clear: int | None, background: int) -> None:
    pixels = np.asarray(first_frame(gif((20, 12), (3, 2, 8, 6), 0, clear=clear, background=background)))
    want = np.full((12, 20, 3), 255)
    want[2:8, 3:11] = (255, 0, 0)
    assert (pixels == want).all()


def test_images_in_the_container_of_a_video_are_refused_by_name() -> None:
    buffer = io.BytesIO()
    Image.fromarray(quadrants()).save(buffer, "AVIF")
    refused(buffer.getvalue(), UnsupportedMedia, "the file is an AVIF image; accepted: MP4, WebM")
    refused(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), UnsupportedMedia, "the file is a HEIC image; accepted")
    refused(b"FLV\x01" + bytes(99), UnsupportedMedia, "the file is an FLV video; accepted: MP4, WebM")
