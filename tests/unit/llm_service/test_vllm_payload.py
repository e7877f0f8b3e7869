"""What the plugin for vLLM is handed, and what it refuses. Runs without vLLM; the rest is in tests/vllm."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llm_service.prompts import VisualTokens
from llm_service.vllm_plugin.checks import PayloadLimits, check_pruned, check_whole
from llm_service.vllm_plugin.payload import multi_modal_data

HIDDEN = 8
LIMITS = PayloadLimits(hidden_size=HIDDEN, merge_size=2, tokens_per_second=2, max_positions=1000)

PICTURE = VisualTokens(np.ones((3, HIDDEN), np.float32), np.array([5, 0, 53]), (1, 6, 9))
OTHER = VisualTokens(np.full((1, HIDDEN), 2, np.float32), np.array([2]), (1, 2, 2))
VIDEO = VisualTokens(np.zeros((2, HIDDEN), np.float32), np.array([0, 11]), (3, 2, 2), is_video=True)


def made(*visual_tokens, dtype=torch.float32):
    return multi_modal_data(visual_tokens, merge_size=2, dtype=dtype)


def test_pictures_and_videos_are_told_apart_and_keep_their_order():
    payload = made(PICTURE, VIDEO, OTHER, dtype=torch.bfloat16)
    image, video = payload["image"], payload["video"]
    assert image["image_embeds"].dtype == torch.bfloat16
    assert image["image_embeds"][:, 0].tolist() == [1, 1, 1, 2]
    assert image["image_num_tokens"].tolist() == [3, 1]
    assert image["image_positions"].tolist() == [5, 0, 53, 2]
    assert image["image_grid_thw"].tolist() == [[1, 12, 18], [1, 4, 4]]
    assert video["video_grid_thw"].tolist() == [[3, 4, 4]]
    assert video["second_per_grid_ts"].tolist() == [1.0]


def test_text_alone_has_no_payload():
    assert made() == {}


def test_what_is_built_passes():
    for modality, payload in made(PICTURE, OTHER, VIDEO).items():
        check_pruned(modality, payload, LIMITS)


def whole():
    return {"image_embeds": torch.zeros(6, HIDDEN), "image_grid_thw": torch.tensor([[1, 4, 6]])}


def test_embeddings_of_a_whole_grid_pass():
    check_whole("image", whole(), LIMITS)


IMAGE_REFUSED = [
    ("image_embeds", torch.zeros(5, HIDDEN), "has 5 rows; 4 are announced"),
    ("image_embeds", torch.zeros(4, HIDDEN + 1), "is 9 wide; the language model is 8"),
    ("image_embeds", torch.full((4, HIDDEN), math.nan), "holds NaN or infinity"),
    ("image_embeds", torch.full((4, HIDDEN), -math.inf), "holds NaN or infinity"),
    ("image_embeds", torch.zeros(4, HIDDEN, dtype=torch.int64), "is torch.int64"),
    ("image_embeds", torch.zeros(1, 4, HIDDEN), "with 3 axes"),
    ("image_embeds", [torch.zeros(4, HIDDEN)], "is list; a tensor is needed"),
    ("image_embeds", None, "is missing"),
    ("image_num_tokens", None, "is missing"),
    ("image_num_tokens", torch.tensor([4, 0]), "at least 1 token"),
    ("image_num_tokens", torch.tensor([-1, 5]), "at least 1 token"),
    ("image_num_tokens", torch.tensor([], dtype=torch.int64), "at least 1 token"),
    ("image_num_tokens", torch.tensor([3, 2]), "has 4 rows; 5 are announced"),
    ("image_num_tokens", torch.tensor([4]), r"has shape \[2, 3\]; \[1, 3\] is accepted"),
    ("image_num_tokens", torch.tensor([3.0, 1.0]), "is torch.float32"),
    ("image_positions", None, "is missing"),
    ("image_positions", torch.tensor([5, 0, 54, 2]), "of image 0 reach from 0 to 54; its grid holds 0 to 53"),
    ("image_positions", torch.tensor([5, 0, 53, 4]), "of image 1 reach from 4 to 4; its grid holds 0 to 3"),
    ("image_positions", torch.tensor([-1, 0, 53, 2]), "of image 0 reach from -1"),
    ("image_positions", torch.tensor([5, 0, 53]), "has 3 rows"),
    ("image_grid_thw", torch.tensor([[1, 12, 18], [2, 4, 4]]), "a picture of 2 frames"),
    ("image_grid_thw", torch.tensor([[1, 12, 18], [1, 0, 4]]), "positive multiples of 2"),
    ("image_grid_thw", torch.tensor([[1, 12, 18], [1, 5, 4]]), "positive multiples of 2"),
    ("image_grid_thw", torch.tensor([[1, 12, 18], [1, 4, 2**62]]), "past 1000 positions"),
]


@pytest.mark.parametrize(("name", "value", "says"), IMAGE_REFUSED)
def test_a_picture_that_would_end_the_engine_is_refused(name, value, says):
    payload = made(PICTURE, OTHER)["image"] | {name: value}
    with pytest.raises(ValueError, match=says):
        check_pruned("image", payload, LIMITS)


VIDEO_REFUSED = [
    (torch.tensor([1.0, 2.0]), "2 numbers for 1 videos"),
    (torch.tensor([0.0]), "is 0 for 3 frames"),
    (torch.tensor([math.nan]), "is nan for 3 frames"),
    (torch.tensor([math.inf]), "is inf for 3 frames"),
    (torch.tensor([250.0]), "an end before position 1000"),
    (torch.tensor([1]), "is torch.int64"),
]


@pytest.mark.parametrize(("seconds", "says"), VIDEO_REFUSED)
def test_a_video_that_would_reach_past_the_model_is_refused(seconds, says):
    with pytest.raises(ValueError, match=says):
        check_pruned("video", made(VIDEO)["video"] | {"second_per_grid_ts": seconds}, LIMITS)


@pytest.mark.parametrize("rows", [5, 7])
def test_a_whole_grid_that_is_not_whole_is_refused(rows):
    with pytest.raises(ValueError, match=f"has {rows} rows; 6 are announced"):
        check_whole("image", whole() | {"image_embeds": torch.zeros(rows, HIDDEN)}, LIMITS)
