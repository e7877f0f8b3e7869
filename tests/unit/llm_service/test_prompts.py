"""Validation of prompts: each error has its own message, and a valid prompt is decoded exactly."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from fovea.errors import CheckpointMismatch, InvalidRequest
from fovea.v1 import tensor_pb2
from fovea.wire import basis_file, rans, tensors
from fovea.wire.basis import WireBasis
from llm_service.frame_prompt import FramePrompt
from llm_service.prompts import PromptLimits, read_prompt, visual_token_bytes

LIMITS = PromptLimits(
    vocab_size=100,
    image_token_id=4,
    visual_hidden_size=32,
    max_visual_tokens=12,
    max_model_len=40,
    fingerprint="f" * 16,
)


def read(ids, images):
    return read_prompt(ids, images, LIMITS)


def test_a_valid_prompt_is_decoded_exactly(visual_tokens):
    features = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    first, second = visual_tokens(LIMITS.fingerprint, features), visual_tokens(LIMITS.fingerprint, count=5)
    first.positions[:] = [3, 15]
    prompt = read([1, 4, 50, 4, 99], [first, second])
    assert prompt.input_ids.tolist() == [1, 4, 50, 4, 99]
    assert prompt.num_tokens == 3 + 2 + 5
    assert np.array_equal(prompt.visual_tokens[0].features, features)
    assert prompt.visual_tokens[0].positions.tolist() == [3, 15]
    assert prompt.visual_tokens[0].grid == (1, 4, 4)


def test_a_question_without_an_image_is_a_prompt():
    assert read([1, 50], []).num_tokens == 2


@pytest.mark.parametrize(
    ("ids", "images", "message"),
    [
        ([], 0, "prompt is empty"),
        ([1, 100], 0, "token id 100 is outside the vocabulary; ids are 0 to 99"),
        ([1, 2**32 - 1], 0, "token id 4294967295 is outside"),
        ([1, 50], 1, r"0 image tokens \(id 4\) for 1 images"),
        ([1, 4], 0, r"1 image tokens \(id 4\) for 0 images"),
        ([1, 4, 4], 1, r"2 image tokens \(id 4\) for 1 images; each needs exactly one, in their order"),
        ([4, 4, 4], 3, "15 visual tokens; at most 12 are accepted"),
        ([1] * 40, 0, "has 40 tokens, visual tokens included, 1 more than the 39 .* context of 40"),
        ([4, *[1] * 40], 1, "has 45 tokens, visual tokens included, 6 more than the 39"),
    ],
)
def test_ids_are_checked(visual_tokens, ids, images, message):
    with pytest.raises(InvalidRequest, match=message):
        read(ids, [visual_tokens(LIMITS.fingerprint)] * images)


def test_a_prompt_that_leaves_room_for_one_token_is_accepted(visual_tokens):
    assert read([4, *[1] * 34], [visual_tokens(LIMITS.fingerprint)]).num_tokens == 39


def shape(*extents):
    def change(message):
        message.features.shape[:] = extents

    return change


def data(value):
    def change(message):
        features = np.zeros((5, 32), "<f4")
        features[2, 3] = value
        tensor = message.features
        tensor.data = features.tobytes()
        tensor.crc32 = zlib.crc32(tensor.data)

    return change


def positions(*values):
    def change(message):
        message.positions[:] = values

    return change


def field(path, value):
    def change(message):
        *parents, name = path.split(".")
        for parent in parents:
            message = getattr(message, parent)
        setattr(message, name, value)

    return change


HOSTILE = {
    "nan": (data(np.nan), "NaN or infinity"),
    "infinity": (data(np.inf), "NaN or infinity"),
    "wrong width": (shape(10, 16), r"shape \[10, 16\] are not \[K, 32\]"),
    "one axis": (shape(160), r"shape \[160\] are not \[K, 32\]"),
    "three axes": (shape(1, 5, 32), r"shape \[1, 5, 32\] are not"),
    "no tensor": (lambda message: message.ClearField("features"), r"shape \[\] are not"),
    "no tokens": (shape(0, 32), "0 visual tokens are not 1 to 12"),
    "huge shape, little data": (shape(2**32 - 1, 32), "4294967295 visual tokens are not 1 to 12"),
    "fewer bytes than the shape": (field("features.data", b"1234"), "has 640 bytes, not 4"),
    "tokens without positions": (positions(0, 1), "5 visual tokens come with 2 positions"),
    "bad checksum": (field("features.crc32", 1), "checksum does not match"),
    "unknown dtype": (field("features.dtype", 77), "dtype 77 is not one of float32, float16, bfloat16"),
    "position outside": (positions(0, 1, 2, 3, 16), "position 16 is outside the grid of 1 x 4 x 4 .* 0 to 15"),
    "duplicates": (positions(0, 1, 1, 2, 3), "a position occurs twice"),
    "duplicates apart": (positions(3, 1, 0, 2, 3), "a position occurs twice"),
    "empty grid": (field("grid.rows", 0), "grid of 1 x 0 x 4 .* has no patches"),
    "frames": (field("grid.frames", 40_000_000), "grid of 40000000 x 4 x 4 .* up to 4096 frames"),
    "frames by one": (field("grid.frames", 4097), "up to 4096 frames"),
    "rows": (field("grid.rows", 65_537), "65536 rows and columns"),
    "columns": (field("grid.columns", 2**32 - 1), "65536 rows and columns"),
    "CLS tokens": (field("grid.cls_per_frame", 2**20), "with 1048576 CLS tokens a frame is too large"),
    "unknown kind": (field("kind", 7), "kind 7 is not one of VISUAL_KIND_UNSPECIFIED, VISUAL_KIND_IMAGE"),
    "negative seconds": (field("seconds_per_frame", -1.0), "seconds_per_frame is not a number of 0 to 7200"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tensors_are_refused(visual_tokens, name):
    change, message = HOSTILE[name]
    good, bad = visual_tokens(LIMITS.fingerprint), visual_tokens(LIMITS.fingerprint)
    change(bad)
    with pytest.raises(InvalidRequest, match=rf"visual_tokens\[1\]: .*{message}") as caught:
        read([4, 4, 1], [good, bad])
    assert caught.value.param == "visual_tokens"


def test_positions_keep_the_order_of_the_message(visual_tokens):
    message = visual_tokens(LIMITS.fingerprint)
    positions(9, 2, 15, 0, 4)(message)
    assert read([4, 1], [message]).visual_tokens[0].positions.tolist() == [9, 2, 15, 0, 4]


@pytest.mark.parametrize("fingerprint", ["", "0" * 16, "x" * 10_000])
def test_tokens_of_another_checkpoint_are_refused(visual_tokens, fingerprint):
    with pytest.raises(CheckpointMismatch, match="both services must load the same one") as caught:
        read([4], [visual_tokens(fingerprint)])
    assert len(caught.value.message) < 300


def test_wire_dtypes_are_decoded(visual_tokens):
    features = np.random.default_rng(0).standard_normal((5, 32), dtype=np.float32)
    for dtype, tolerance in ((tensor_pb2.DTYPE_FLOAT16, 2e-3), (tensor_pb2.DTYPE_BFLOAT16, 2e-2)):
        message = visual_tokens(LIMITS.fingerprint)
        message.features.CopyFrom(tensors.to_message(features, dtype))
        assert np.allclose(read([4], [message]).visual_tokens[0].features, features, atol=tolerance)


WITH_VIDEO = dataclasses.replace(LIMITS, video_token_id=5, has_newline=True)


def test_images_and_videos_need_placeholders_in_the_same_order(visual_tokens):
    still, clip = visual_tokens(LIMITS.fingerprint, count=2), visual_tokens(LIMITS.fingerprint, count=3)
    clip.kind, clip.seconds_per_frame = tensor_pb2.VISUAL_KIND_VIDEO, 0.5
    prompt = read_prompt([1, 5, 50, 4], [clip, still], WITH_VIDEO)
    assert [tokens.is_video for tokens in prompt.visual_tokens] == [True, False]
    assert prompt.visual_tokens[0].seconds_per_frame == 0.5
    assert prompt.placeholders(WITH_VIDEO.visual_token_ids).tolist() == [1, 3]
    with pytest.raises(InvalidRequest, match=r"1 image tokens \(id 4\) and 1 video tokens \(id 5\) .* in their order"):
        read_prompt([1, 4, 50, 5], [clip, still], WITH_VIDEO)
    with pytest.raises(InvalidRequest, match="accepts images only, no videos"):
        read_prompt([1, 4], [clip], LIMITS)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 1e9])
def test_seconds_are_checked(visual_tokens, seconds):
    clip = visual_tokens(LIMITS.fingerprint, count=3)
    clip.kind, clip.seconds_per_frame = tensor_pb2.VISUAL_KIND_VIDEO, seconds
    with pytest.raises(InvalidRequest, match="seconds_per_frame is not a number of 0 to 7200"):
        read_prompt([1, 5], [clip], WITH_VIDEO)


def test_line_end_tokens_count_as_tokens(visual_tokens):
    tiled = visual_tokens(LIMITS.fingerprint, count=4)
    tiled.newline_after[:] = [1, 3]
    prompt = read_prompt([1, 4, 50], [tiled], WITH_VIDEO)
    assert prompt.num_tokens == 2 + 4 + 2
    assert prompt.visual_tokens[0].newline_after.tolist() == [1, 3]
    with pytest.raises(InvalidRequest, match="this model has no line-end token"):
        read_prompt([1, 4, 50], [tiled], LIMITS)


def test_empty_lines_repeat_the_index_of_the_line_before(visual_tokens):
    narrow = visual_tokens(LIMITS.fingerprint, count=4)
    narrow.newline_after[:] = [3, 3, 3]
    prompt = read_prompt([1, 4, 50], [narrow], WITH_VIDEO)
    assert prompt.num_tokens == 2 + 4 + 3
    assert prompt.visual_tokens[0].newline_after.tolist() == [3, 3, 3]


@pytest.mark.parametrize("newline_after", [[3, 1], [4], [2**32 - 1]])
def test_line_end_indices_are_checked(visual_tokens, newline_after):
    tiled = visual_tokens(LIMITS.fingerprint, count=4)
    tiled.newline_after[:] = newline_after
    with pytest.raises(InvalidRequest, match="newline_after must hold indices of visual tokens in ascending order"):
        read_prompt([1, 4, 50], [tiled], WITH_VIDEO)


def test_tokens_without_a_patch_have_numbers_after_the_patches(visual_tokens):
    message = visual_tokens(LIMITS.fingerprint, count=2)
    message.grid.cls_per_frame = 1
    message.positions[:] = [16, 3]
    assert read([1, 4], [message]).visual_tokens[0].positions.tolist() == [16, 3]
    message.positions[:] = [17, 3]
    with pytest.raises(InvalidRequest, match="positions are 0 to 16"):
        read([1, 4], [message])


def plain_basis(step: int) -> WireBasis:
    """Identity basis of 32 channels with equal scales."""
    tables = np.full((15, 49), rans.TOTAL // 49)
    tables[:, 24] += rans.TOTAL - tables.sum(axis=1)
    flat, levels = np.zeros(32, np.float32), np.zeros(32, np.int64)
    return basis_file.from_bytes(
        basis_file.to_bytes(flat, np.eye(32, dtype=np.float32), levels, levels[None][:0], tables, step)
    )


def test_tokens_in_a_basis_need_the_same_basis(visual_tokens):
    own, other = plain_basis(-8), plain_basis(-9)
    message = visual_tokens(LIMITS.fingerprint)
    exact = tensors.from_message(message.features, max_bytes=2**20)
    message.features.CopyFrom(tensors.to_message(exact, tensor_pb2.DTYPE_BASIS, basis=own))
    (tokens,) = read_prompt([1, 4], [message], dataclasses.replace(LIMITS, wire_basis=own)).visual_tokens
    np.testing.assert_allclose(tokens.features, exact, atol=0.16)
    for loaded, expected in (
        (None, "this service has none loaded"),
        (other, f"wire basis {own.digest.hex()}, this service has {other.digest.hex()}"),
    ):
        with pytest.raises(CheckpointMismatch, match=expected):
            read_prompt([1, 4], [message], dataclasses.replace(LIMITS, wire_basis=loaded))


WITH_PLANES = dataclasses.replace(LIMITS, num_planes=2)


def with_planes(message, count=2, shape=None):
    for i in range(count):
        plane = np.full(shape or message.features.shape, i + 1, np.float32)
        message.planes.append(tensors.to_message(plane, tensor_pb2.DTYPE_INT8))
    return message


def test_planes_are_decoded_each_in_its_own_wire_format(visual_tokens):
    message = with_planes(visual_tokens(LIMITS.fingerprint, count=3))
    [tokens] = read_prompt([4], [message], WITH_PLANES).visual_tokens
    assert [plane.shape for plane in tokens.planes] == [(3, 32)] * 2
    np.testing.assert_allclose(
        np.stack(tokens.planes), np.array([1, 2])[:, None, None] * np.ones((2, 3, 32)), rtol=1e-2
    )


def infinite_plane(message):
    message = with_planes(message, 1)
    message.planes.append(message.planes[0])
    message.planes[1].data = message.planes[1].data[:-1] + b"\x00"
    return message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tokens: tokens, "have 0 DeepStack planes; this model takes 2"),
        (lambda tokens: with_planes(tokens, 3), "have 3 DeepStack planes; this model takes 2"),
        (lambda tokens: with_planes(tokens, 2, (4, 32)), r"a plane of shape \[4, 32\] is not \[5, 32\]"),
        (lambda tokens: with_planes(tokens, 2, (5, 31)), r"a plane of shape \[5, 31\] is not \[5, 32\]"),
        (infinite_plane, "checksum"),
    ],
)
def test_planes_are_checked(visual_tokens, change, message):
    with pytest.raises(InvalidRequest, match=message):
        read_prompt([4], [change(visual_tokens(LIMITS.fingerprint))], WITH_PLANES)


def test_planes_for_a_model_without_them_are_refused(visual_tokens):
    with pytest.raises(InvalidRequest, match="have 1 DeepStack planes; this model takes 0"):
        read([4], [with_planes(visual_tokens(LIMITS.fingerprint), 1)])


def test_planes_count_in_the_bytes_that_a_request_holds(visual_tokens):
    message = with_planes(visual_tokens(LIMITS.fingerprint))
    assert visual_token_bytes([message], WITH_PLANES) == 3 * visual_token_bytes([message], LIMITS) == 3 * 5 * 32 * 4


VIDEO = 5
BY_FRAME = dataclasses.replace(
    LIMITS,
    video_token_id=VIDEO,
    max_model_len=200,
    frame_prompt=FramePrompt(
        Tokenizer(models.WordLevel({"<0.2 seconds>": 60, "<1.8 seconds>": 61, "?": 0}, unk_token="?")), VIDEO, 6, 7
    ),
)


def clip(visual_tokens, positions, times=(0.25, 1.75)):
    message = visual_tokens(LIMITS.fingerprint, count=len(positions))
    message.positions[:] = positions
    message.kind = tensor_pb2.VISUAL_KIND_VIDEO
    message.grid.frames, message.grid.rows, message.grid.columns = 2, 2, 3
    message.frame_times[:] = times
    return message


def test_a_video_is_written_frame_by_frame_with_its_times(visual_tokens):
    """Tokens go to their frame, in the order of the message; positions are those in the grid of one frame."""
    message = clip(visual_tokens, [7, 3, 11, 0])
    features = np.arange(4 * 32, dtype=np.float32).reshape(4, 32)
    message.features.CopyFrom(tensors.to_message(features, tensor_pb2.DTYPE_FLOAT32))
    prompt = read_prompt([1, VIDEO, 2], [message], BY_FRAME)
    assert prompt.input_ids.tolist() == [1, 60, 6, VIDEO, 7, 61, 6, VIDEO, 7, 2]
    first, second = prompt.visual_tokens
    assert (first.positions.tolist(), second.positions.tolist()) == ([3, 0], [1, 5])
    assert np.array_equal(first.features, features[[1, 3]])
    assert np.array_equal(second.features, features[[0, 2]])
    assert first.grid == second.grid == (1, 2, 3)
    assert prompt.num_tokens == 10 - 2 + 4


def test_a_frame_without_tokens_has_its_time_only(visual_tokens):
    prompt = read_prompt([VIDEO], [clip(visual_tokens, [8])], BY_FRAME)
    assert [tokens.num_tokens for tokens in prompt.visual_tokens] == [0, 1]
    assert prompt.num_tokens == 8 - 2 + 1


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((), "there are 0 frame_times; 2 are needed here"),
        ((1.0, 2.0, 3.0), "there are 3 frame_times; 2 are needed here"),
        ((0.5, float("nan")), "frame_times has a number that is not one of 0 to 1e"),
        ((-0.5, 1.0), "frame_times has a number that is not one of 0 to 1e"),
        ((0.5, 1e9), "frame_times has a number that is not one of 0 to 1e"),
    ],
)
def test_times_of_frames_are_checked(visual_tokens, times, message):
    with pytest.raises(InvalidRequest, match=message):
        read_prompt([VIDEO], [clip(visual_tokens, [0, 6], times)], BY_FRAME)


def test_times_count_in_the_length_of_the_prompt(visual_tokens):
    """The prompt has 4 ids for each frame instead of the placeholder."""
    limits = dataclasses.replace(BY_FRAME, max_model_len=20)
    assert read_prompt([VIDEO, *[1] * 9], [clip(visual_tokens, [0, 6, 7, 8])], limits).num_tokens == 19
    with pytest.raises(InvalidRequest, match="has 20 tokens, visual tokens included, 1 more than the 19"):
        read_prompt([VIDEO, *[1] * 10], [clip(visual_tokens, [0, 6, 7, 8])], limits)
