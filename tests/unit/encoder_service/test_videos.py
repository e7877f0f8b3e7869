"""Video files and lists of frames: sampling and refusals."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_utils import VideoMetadata

from benchmarks.checkpoints.tiny.clips import clip_file
from encoder_service.media.video_limits import VideoLimits
from encoder_service.media.videos import FrameList, VideoFile, decode
from encoder_service.models.frame_sampling import first_of_intervals, from_first_to_last
from fovea.errors import InvalidRequest, ServiceError, TooLarge, UnsupportedMedia
from tests.unit.encoder_service.frame_samplings import EvenSampling

NUM_FRAMES, RATE, SIZE = 12, 6, (64, 48)


def grey_file(
    levels: list[int], *, container: str = "mp4", codec: str = "mpeg4", size: tuple[int, int] = SIZE, rate: int = RATE
) -> bytes:
    """A video whose frames are plain greys, which identify the sampled frames."""
    buffer = io.BytesIO()
    pixel_format = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    with av.open(buffer, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        for level in levels:
            image = Image.new("RGB", size, (level, level, level))
            output.mux(stream.encode(av.VideoFrame.from_image(image).reformat(format=pixel_format)))
        output.mux(stream.encode())
    return buffer.getvalue()


def greys(count: int = NUM_FRAMES) -> list[int]:
    return [20 + 18 * i for i in range(count)]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def seen(frames: tuple[Image.Image, ...]) -> list[int]:
    """The number of each frame, by its grey."""
    return [round((float(np.asarray(frame).mean()) - 20) / 18) for frame in frames]


EIGHT = EvenSampling(8)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp4", "mpeg4"),
        ("mp4", "libx264"),
        ("webm", "libvpx"),
        ("webm", "libvpx-vp9"),
        ("matroska", "libx264"),
        ("avi", "mpeg4"),
        ("avi", "mjpeg"),
        ("mov", "mpeg4"),
        ("gif", "gif"),
    ],
)
def test_frames_are_sampled_evenly_from_every_container(container: str, codec: str) -> None:
    levels = greys() if codec != "gif" else [255 * (i % 2) for i in range(NUM_FRAMES)]
    file = grey_file(levels, container=container, codec=codec)
    video = decode(VideoFile(file, 4), EIGHT, VideoLimits())
    assert [frame.size for frame in video.frames] == [SIZE] * 4
    assert {frame.mode for frame in video.frames} == {"RGB"}
    if codec == "gif":  # 8-bit colour has few greys
        assert [float(np.asarray(frame).mean()) > 128 for frame in video.frames] == [False, True, False, True]
    else:
        assert seen(video.frames) == [0, 3, 6, 9]
    assert video.seconds_per_frame == pytest.approx(NUM_FRAMES / RATE / 4, rel=0.05)  # a GIF counts in 1/100 s


def test_the_rules_are_those_of_transformers() -> None:
    for total in (8, 9, 31, 100, 2047):
        for count in (1, 5, 8):
            assert first_of_intervals(total, count) == (np.arange(count) * total // count).tolist()
            metadata = VideoMetadata(total_num_frames=total, fps=1)
            of_qwen3 = Qwen3VLVideoProcessor.sample_frames(SimpleNamespace(fps=None), metadata, num_frames=count)
            assert from_first_to_last(total, count) == of_qwen3.tolist()


def test_the_model_decides_how_many_frames_where_the_request_does_not() -> None:
    sampling = EvenSampling(3)
    video = decode(VideoFile(grey_file(greys())), sampling, VideoLimits())
    assert seen(video.frames) == [0, 4, 8]
    assert sampling.asked == [(NUM_FRAMES, pytest.approx(NUM_FRAMES / RATE))]
    assert video.times == pytest.approx((0, 4 / RATE, 8 / RATE))
    assert len(decode(VideoFile(grey_file(greys())), EIGHT, VideoLimits(max_frames=5)).frames) == 5


def test_a_video_with_too_few_frames_shows_some_of_them_several_times() -> None:
    video = decode(VideoFile(grey_file(greys(3))), EIGHT, VideoLimits())
    assert seen(video.frames) == [0, 0, 0, 1, 1, 1, 2, 2]


def test_packets_that_show_no_frame_are_not_counted_as_frames() -> None:
    """VP8 has such, and containers count them like others."""
    buffer = io.BytesIO()
    file = grey_file(greys(), container="webm", codec="libvpx")
    with av.open(buffer, "w", format="webm") as output, av.open(io.BytesIO(file), format="matroska") as source:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            data = bytearray(bytes(packet))
            if number in (3, 7):
                data[0] &= ~0x10  # show_frame, RFC 6386, section 9.1
            copy = av.Packet(bytes(data))
            copy.stream, copy.pts, copy.dts, copy.time_base = stream, packet.pts, packet.dts, packet.time_base
            copy.is_keyframe = packet.is_keyframe
            output.mux(copy)
    video = decode(VideoFile(buffer.getvalue(), 10), EIGHT, VideoLimits())
    assert seen(video.frames) == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]


def test_a_film_that_a_phone_took_upright_stands_upright() -> None:
    frame = Image.new("RGB", (64, 32), "black")
    frame.paste((255, 255, 255), (0, 0, 16, 32))  # the left end is white
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream: Any = output.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for _ in range(3):
            output.mux(stream.encode(av.VideoFrame.from_image(frame)))
        output.mux(stream.encode())
    file = bytearray(buffer.getvalue())
    # The matrix of the track header: 9 numbers of 4 bytes, 40 bytes after the start of the box's content.
    matrix = file.index(b"tkhd") + 4 + 40
    a_quarter_clockwise = (0, 1 << 16, 0, -(1 << 16) & 0xFFFFFFFF, 0, 0, 0, 0, 1 << 30)
    file[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big") for value in a_quarter_clockwise)
    (first, *_) = decode(VideoFile(bytes(file)), EIGHT, VideoLimits()).frames
    assert first.size == (32, 64)
    pixels = np.asarray(first.convert("L"))
    assert pixels[:12].mean() > 200
    assert pixels[24:].mean() < 50


def test_transparent_areas_of_an_animation_become_white() -> None:
    frames = [Image.new("RGBA", (40, 40), (0, 0, 0, 0)) for _ in range(2)]
    for i, frame in enumerate(frames):
        frame.paste((255, 0, 0, 255), (0, 10 * i, 10, 10 * i + 10))
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], disposal=2)
    video = decode(VideoFile(buffer.getvalue(), 2), EIGHT, VideoLimits())
    assert [np.asarray(frame)[35, 35].tolist() for frame in video.frames] == [[255, 255, 255]] * 2
    assert np.asarray(video.frames[1])[15, 5].tolist() == [255, 0, 0]


def test_frames_may_come_as_images() -> None:
    files = tuple(png(Image.new("RGB", SIZE, (level, level, level))) for level in greys(5))
    video = decode(FrameList(files, 0.5), EIGHT, VideoLimits())
    assert seen(video.frames) == [0, 1, 2, 3, 4]
    assert video.seconds_per_frame == 0.5


def test_the_digest_covers_what_is_seen() -> None:
    file, frames = clip_file(4), (png(Image.new("RGB", SIZE)),) * 2
    digests = {
        source.digest
        for source in (
            VideoFile(file),
            VideoFile(file, 4),
            VideoFile(file, 8),
            VideoFile(clip_file(4, seed=1)),
            FrameList(frames),
            FrameList(frames, 1.0),
            FrameList(frames[:1]),
        )
    }
    assert len(digests) == 7
    assert VideoFile(file, 4).digest == VideoFile(bytes(file), 4).digest


def refused(source: VideoFile | FrameList, error: type[ServiceError], words: str, **limits: Any) -> None:
    with pytest.raises(error, match=words) as caught:
        decode(source, EIGHT, VideoLimits(**limits))
    assert caught.value.param == "video"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello there, this is a text",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        png(Image.new("RGB", (8, 8))),
        b"\x00\x00\x00\x18ftypisom" + bytes(200),
        b"\x1aE\xdf\xa3" + bytes(200),
        b"RIFF\x00\x00\x00\x00AVI " + bytes(200),
        b"GIF89a",
        clip_file(4)[:-700],
        clip_file(4)[:300],
    ],
    ids=["empty", "text", "playlist", "concat", "png", "mp4", "mkv", "avi", "gif", "cut off", "a start"],
)
def test_what_is_no_whole_video_is_refused(data: bytes) -> None:
    refused(VideoFile(data), UnsupportedMedia, "accepted: (whole files of )?MP4, WebM, MKV, AVI, MOV, GIF")


def test_a_file_whose_frames_are_broken_is_refused() -> None:
    file = bytearray(clip_file(12, container="mp4"))
    start = file.index(b"mdat") + 4
    file[start : start + 1500] = np.random.default_rng(1).bytes(1500)
    refused(VideoFile(bytes(file)), UnsupportedMedia, "broken")


def test_a_table_of_countless_samples_is_refused_before_it_is_made() -> None:
    """With a size that holds for all samples it takes 20 bytes of file, and gigabytes of index."""
    file = bytearray(clip_file(4, container="mov"))
    start = file.index(b"stsz")
    file[start + 8 : start + 16] = (1).to_bytes(4, "big") + (80_000_000).to_bytes(4, "big")
    refused(VideoFile(bytes(file)), TooLarge, "80,000,000 samples .* at most 4,000,000")


def test_a_sample_table_tag_inside_frame_data_is_ignored() -> None:
    file = clip_file(4, container="mov")
    media = file.index(b"mdat") - 4
    extra = b"stsz" + b"\xff" * 30 + b"cmov"
    size = int.from_bytes(file[media : media + 4], "big") + len(extra)
    end = media + size - len(extra)
    assert file.index(b"moov") > end  # offsets into the media stay true
    grown = file[:media] + size.to_bytes(4, "big") + file[media + 4 : end] + extra + file[end:]
    assert len(decode(VideoFile(grown), EIGHT, VideoLimits()).frames) == 8


def test_sound_without_a_video_stream_is_refused() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream: Any = output.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    refused(VideoFile(buffer.getvalue()), UnsupportedMedia, "no video in it")


def test_what_is_too_much_is_refused_before_it_is_decoded() -> None:
    file = clip_file(16, frames_per_second=8, size=(96, 64))
    refused(VideoFile(file), TooLarge, "bytes; at most 100", max_bytes=100)
    refused(VideoFile(file), TooLarge, "96 x 64 pixels; at most 6,000", max_frame_pixels=6000)
    refused(VideoFile(file), TooLarge, "8 frames of 96 x 64 .* at most 40,000", max_pixels=40_000)
    refused(VideoFile(file), TooLarge, "lasts 2 seconds; at most 1", max_seconds=1.0)
    refused(VideoFile(file), TooLarge, "longer than 0 seconds", timeout_s=0.0)
    refused(VideoFile(file, 65), InvalidRequest, "at most 64")
    assert (
        len(decode(VideoFile(file), EIGHT, VideoLimits(max_frame_pixels=96 * 64, max_pixels=8 * 96 * 64)).frames) == 8
    )


def test_frames_of_a_list_are_checked_like_images() -> None:
    frame = png(Image.new("RGB", (32, 16)))
    refused(FrameList(()), InvalidRequest, "at least 1")
    refused(FrameList((frame,) * 3), InvalidRequest, "3 frames of a video; at most 2", max_frames=2)
    refused(FrameList((frame,) * 3), TooLarge, "bytes", max_bytes=2 * len(frame))
    refused(FrameList((frame,) * 3), TooLarge, "3 frames of 32 x 16", max_pixels=2 * 512)
    refused(FrameList((frame, b"x")), UnsupportedMedia, "frame 1 of the video: these bytes are not an image")
    refused(FrameList((frame, png(Image.new("RGB", (16, 32))))), InvalidRequest, "different sizes")


def test_a_video_whose_frames_grow_is_refused() -> None:
    """The header declares 64 x 48; later frames are larger."""
    small, large = grey_file([50] * 3, container="avi", codec="mjpeg"), None
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as output, av.open(io.BytesIO(small), format="avi") as source:
        stream: Any = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
        jpeg = io.BytesIO()
        Image.new("RGB", (1600, 1200)).save(jpeg, "JPEG")
        large = av.Packet(jpeg.getvalue())
        large.stream, large.pts, large.dts, large.time_base = stream, 3, 3, stream.time_base
        output.mux(large)
    refused(VideoFile(buffer.getvalue(), 4), UnsupportedMedia, "broken", max_frame_pixels=64 * 48)
    refused(VideoFile(buffer.getvalue(), 4), InvalidRequest, "different sizes")
