"""Payloads of the plugin for vLLM and their validation. Runs without vLLM; the rest is in tests/vllm."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from llm_service.prompts import VisualTokens
from llm_service.vllm_plugin.payload import multi_modal_data
from llm_service.vllm_plugin.payload_checks import PayloadLimits, check_pruned, check_whole

HIDDEN = 8
LIMITS = PayloadLimits(embeds_width=HIDDEN, merge_size=2, tokens_per_second=2, max_positions=1000)

IMAGE_TOKENS = VisualTokens(np.ones((3, HIDDEN), np.float32), np.array([5, 0, 53]), (1, 6, 9))
OTHER = VisualTokens(np.full((1, HIDDEN), 2, np.float32), np.array([2]), (1, 2, 2))
VIDEO = VisualTokens(np.zeros((2, HIDDEN), np.float32), np.array([0, 11]), (3, 2, 2), is_video=True)


def payloads(*visual_tokens, dtype=torch.float32):
    return multi_modal_data(visual_tokens, merge_size=2, dtype=dtype)


def test_images_and_videos_are_separated_and_keep_their_order():
    payload = payloads(IMAGE_TOKENS, VIDEO, OTHER, dtype=torch.bfloat16)
    image, video = payload["image"], payload["video"]
    assert image["image_embeds"].dtype == torch.bfloat16
    assert image["image_embeds"][:, 0].tolist() == [1, 1, 1, 2]
    assert image["image_num_tokens"].tolist() == [3, 1]
    assert image["image_positions"].tolist() == [5, 0, 53, 2]
    assert image["image_grid_thw"].tolist() == [[1, 12, 18], [1, 4, 4]]
    assert video["video_grid_thw"].tolist() == [[3, 4, 4]]
    assert video["second_per_grid_ts"].tolist() == [1.0]


def frames(*counts, planes=3):
    """A video of Qwen3-VL: one item for each frame, with so many tokens of its 2 x 3."""
    return [
        VisualTokens(
            np.full((count, HIDDEN), 0, np.float32),
            np.arange(count)[::-1],
            (1, 2, 3),
            is_video=True,
            planes=tuple(np.full((count, HIDDEN), 1 + i, np.float32) for i in range(planes)),
        )
        for count in counts
    ]


FRAME_LIMITS = PayloadLimits(
    embeds_width=4 * HIDDEN, merge_size=2, tokens_per_second=1, max_positions=1000, has_frame_items=True
)


def test_planes_follow_the_features_of_their_token_and_a_frame_may_be_empty():
    video = payloads(*frames(2, 0, 1))["video"]
    assert video["video_embeds"][:, ::HIDDEN].tolist() == [[0, 1, 2, 3]] * 3
    assert video["video_num_tokens"].tolist() == [2, 0, 1]
    assert video["video_positions"].tolist() == [1, 0, 0]
    assert video["video_grid_thw"].tolist() == [[1, 4, 6]] * 3
    check_pruned("video", video, FRAME_LIMITS)


def test_text_only_has_no_payload():
    assert payloads() == {}


def test_built_payloads_pass():
    for modality, payload in payloads(IMAGE_TOKENS, OTHER, VIDEO).items():
        check_pruned(modality, payload, LIMITS)


def whole():
    return {"image_embeds": torch.zeros(6, HIDDEN), "image_grid_thw": torch.tensor([[1, 4, 6]])}


def test_embeddings_of_a_whole_grid_pass():
    check_whole("image", whole(), LIMITS)


IMAGE_REFUSED = [
    ("image_embeds", torch.zeros(5, HIDDEN), "has 5 tokens; 4 are expected"),
    ("image_embeds", torch.zeros(4, HIDDEN + 1), "has width 9; the model takes 8"),
    ("image_embeds", torch.full((4, HIDDEN), math.nan), "holds NaN or infinity"),
    ("image_embeds", torch.full((4, HIDDEN), -math.inf), "holds NaN or infinity"),
    ("image_embeds", torch.zeros(4, HIDDEN, dtype=torch.int64), "is torch.int64"),
    ("image_embeds", torch.zeros(1, 4, HIDDEN), "with 3 axes"),
    ("image_embeds", [torch.zeros(4, HIDDEN)], "is list; a tensor is accepted"),
    ("image_embeds", None, "is missing"),
    ("image_num_tokens", None, "is missing"),
    ("image_num_tokens", torch.tensor([4, 0]), "at least 1 for each image"),
    ("image_num_tokens", torch.tensor([-1, 5]), "at least 1 for each image"),
    ("image_num_tokens", torch.tensor([], dtype=torch.int64), "at least 1 for each image"),
    ("image_num_tokens", torch.tensor([3, 2]), "has 4 tokens; 5 are expected"),
    ("image_num_tokens", torch.tensor([4]), r"has shape \[2, 3\]; \[1, 3\] is accepted"),
    ("image_num_tokens", torch.tensor([3.0, 1.0]), "is torch.float32"),
    ("image_positions", None, "is missing"),
    ("image_positions", torch.tensor([5, 0, 54, 2]), "of image 0 reach from 0 to 54; its grid has 0 to 53"),
    ("image_positions", torch.tensor([5, 0, 53, 4]), "of image 1 reach from 4 to 4; its grid has 0 to 3"),
    ("image_positions", torch.tensor([-1, 0, 53, 2]), "of image 0 reach from -1"),
    ("image_positions", torch.tensor([5, 0, 53]), "has 3 entries"),
    ("image_grid_thw", torch.tensor([[1, 12, 18], [2, 4, 4]]), "an item of 2 frames; 1 is accepted"),
    ("image_grid_thw", torch.tensor([[1, 12, 18], [1, 0, 4]]), "positive multiples of 2"),
    ("image_grid_thw", torch.tensor([[1, 12, 18], [1, 5, 4]]), "positive multiples of 2"),
    ("image_grid_thw", torch.tensor([[1, 12, 18], [1, 4, 2**62]]), "past 1000 positions"),
]


@pytest.mark.parametrize(("name", "value", "message"), IMAGE_REFUSED)
def test_an_image_that_would_crash_the_engine_is_refused(name, value, message):
    payload = payloads(IMAGE_TOKENS, OTHER)["image"] | {name: value}
    with pytest.raises(ValueError, match=message):
        check_pruned("image", payload, LIMITS)


FRAME_REFUSED = [
    ("video_num_tokens", torch.tensor([4, -1]), "at least 0 for each frame"),
    ("video_embeds", torch.zeros(3, HIDDEN), "has width 8; the model takes 32"),
    ("video_embeds", torch.full((3, 4 * HIDDEN), math.nan), "holds NaN or infinity"),
    ("video_grid_thw", torch.tensor([[1, 4, 6], [2, 4, 6]]), "an item of 2 frames; 1 is accepted"),
    ("video_positions", torch.tensor([0, 1, 6]), "its grid has 0 to 5"),
]


@pytest.mark.parametrize(("name", "value", "message"), FRAME_REFUSED)
def test_a_frame_that_would_crash_the_engine_is_refused(name, value, message):
    payload = payloads(*frames(2, 1))["video"] | {name: value}
    with pytest.raises(ValueError, match=message):
        check_pruned("video", payload, FRAME_LIMITS)


def test_an_image_of_a_family_with_frames_still_needs_a_token():
    image = payloads(*(replace(tokens, is_video=False) for tokens in frames(2, 0)))["image"]
    with pytest.raises(ValueError, match="at least 1 for each image"):
        check_pruned("image", image, FRAME_LIMITS)


VIDEO_REFUSED = [
    (torch.tensor([1.0, 2.0]), "2 numbers for 1 videos"),
    (torch.tensor([0.0]), "is 0 for 3 frames"),
    (torch.tensor([math.nan]), "is nan for 3 frames"),
    (torch.tensor([math.inf]), "is inf for 3 frames"),
    (torch.tensor([250.0]), "ends before position 1000"),
    (torch.tensor([1]), "is torch.int64"),
]


@pytest.mark.parametrize(("seconds", "message"), VIDEO_REFUSED)
def test_a_video_beyond_the_models_positions_is_refused(seconds, message):
    with pytest.raises(ValueError, match=message):
        check_pruned("video", payloads(VIDEO)["video"] | {"second_per_grid_ts": seconds}, LIMITS)


@pytest.mark.parametrize("count", [5, 7])
def test_an_unpruned_payload_that_does_not_fill_its_grid_is_refused(count):
    with pytest.raises(ValueError, match=f"has {count} tokens; 6 are expected"):
        check_whole("image", whole() | {"image_embeds": torch.zeros(count, HIDDEN)}, LIMITS)
