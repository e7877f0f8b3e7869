"""Qwen3-VL split over both services gives the answers of the unsplit model of transformers.

The services' own code from image and video files to token ids, in one process, with the messages of the wire in
between. transformers' processor as a whole needs torchvision; its parts are used: the image processor in its PIL form,
and the processor's own text for a video. The pixels of videos are the encoder's, which tests/unit/encoder_service
compares on their own.
"""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.video_utils import VideoMetadata

from benchmarks.checkpoints.tiny import qwen3_vl
from fovea.modeling.capture import StandInCapture
from llm_service.engine.model_runner import ModelRunner
from llm_service.engine.slot_cache import SlotCache
from llm_service.engine.slot_prefill import SlotInputs
from llm_service.engine.slots import Slot, SlotClass
from llm_service.prompts import Prompt
from tests.unit.encoder_service.coarse_images import frames, image
from tests.unit.families.qwen import SEVERAL, Asked, QwenSplit, fed_with_kept
from tests.unit.families.services import MAX_DIFFERENCE, Services, assert_same, generate

SECONDS_PER_FRAME = 0.7
SHAPES = [(64, 64), (128, 128), (160, 160), (256, 96), (96, 256), (640, 480), (301, 299), (1, 1), (3, 80), (1000, 13)]


# What the methods of transformers' processor read of it. Its class is built with torchvision only.
PROCESSOR = SimpleNamespace(
    video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
    vision_start_token="<|vision_start|>",
    vision_end_token="<|vision_end|>",
    image_token="<|image_pad|>",
    video_token="<|video_pad|>",
    all_special_multimodal_tokens=["<|image_pad|>", "<|video_pad|>"],
    _calculate_timestamps=lambda *args: Qwen3VLProcessor._calculate_timestamps(None, *args),
)


IMAGES = [Asked([image(size)]) for size in SHAPES]


class Split(QwenSplit):
    """`QwenSplit` with the text of transformers' processor."""

    def inputs(self, asked: Asked) -> dict[str, Any]:
        """Inputs of the unsplit model, with the text of transformers' processor."""
        inputs = self.media(asked)
        images, videos = list[str](), list[str]()
        if asked.images:
            images = ["<|image_pad|>" * (math.prod(grid) // 4) for grid in inputs["image_grid_thw"].tolist()]
        if asked.videos:
            videos = self._video_texts(asked, inputs["video_grid_thw"])
        [text], _ = Qwen3VLProcessor.get_text_with_replacements(PROCESSOR, [self.text(asked)], images, videos)
        return inputs | self.text_inputs(self.services.tokenizer(text)["input_ids"])

    def _video_texts(self, asked: Asked, grids: torch.Tensor) -> list[str]:
        """What transformers' processor writes for each video."""
        metadata = [
            VideoMetadata(len(one), fps=1 / SECONDS_PER_FRAME, frames_indices=list(range(len(one))))
            for one in asked.videos
        ]
        inputs = {"video_grid_thw": grids, "video_metadata": metadata}
        return [Qwen3VLProcessor.replace_video_token(PROCESSOR, inputs, i) for i in range(len(metadata))]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = qwen3_vl.write(tmp_path_factory.mktemp("qwen3"))
    return Split(
        Services.load(folder),
        Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval(),
        Qwen2VLImageProcessorPil.from_pretrained(folder),
        SECONDS_PER_FRAME,
    )


@pytest.mark.parametrize("asked", [*IMAGES, *SEVERAL])
def test_nothing_pruned_the_answer_is_that_of_the_unsplit_model(split: Split, asked: Asked) -> None:
    assert_same(split.services.answer(split.prompt(asked)), generate(split.unsplit, **split.inputs(asked)))


def test_the_prompt_of_a_video_is_that_of_the_processor(split: Split) -> None:
    prompt = split.prompt(SEVERAL[1])
    expected = split.inputs(SEVERAL[1])["input_ids"][0].tolist()
    text = split.services.tokenizer.decode(prompt.input_ids)
    assert "<|vision_start|><0.3 seconds><|vision_start|><|video_pad|><|vision_end|><1.8 seconds>" in text
    assert text.count("<|video_pad|>") == len(prompt.visual_tokens) == 4
    counts = iter(tokens.num_tokens for tokens in prompt.visual_tokens)
    model = split.services.model
    expanded = [
        i for one in prompt.input_ids.tolist() for i in [one] * (next(counts) if one == model.video_token_id else 1)
    ]
    assert expanded == expected


@pytest.mark.parametrize("asked", [IMAGES[5], *SEVERAL])
@pytest.mark.parametrize("pruner", ["desap", "fovea", "cdpruner", "random"])
def test_pruned_it_is_that_of_the_unsplit_model_fed_with_the_kept_positions(
    split: Split, asked: Asked, pruner: str
) -> None:
    prompt = split.prompt(asked, pruner, keep_ratio=0.3)
    assert_same(split.services.answer(prompt), fed_with_kept(split, split.inputs(asked), prompt))


def test_a_kept_token_has_the_features_and_planes_of_the_unsplit_tower(split: Split) -> None:
    asked = Asked([image((288, 192))])
    [tokens] = split.prompt(asked, "hired", keep_tokens=7).visual_tokens
    inputs = split.image_processor(images=list(asked.images), return_tensors="pt")
    with torch.inference_mode():
        whole = split.unsplit.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    for values, expected in zip(
        (tokens.features, *tokens.planes), (whole.pooler_output, *whole.deepstack_features), strict=True
    ):
        np.testing.assert_allclose(values, expected[tokens.positions].numpy(), atol=MAX_DIFFERENCE)


def test_all_frames_of_a_video_may_compete_for_one_budget(split: Split) -> None:
    """A frame of which no token is kept still has its time in the prompt."""
    asked = Asked(videos=[frames(12, (112, 84))])
    prompt = split.prompt(asked, "desap", joins_frames=True, keep_tokens=4)
    counts = [tokens.num_tokens for tokens in prompt.visual_tokens]
    assert len(counts) == 6
    assert sum(counts) == 4
    assert 0 in counts
    assert_same(split.services.answer(prompt), fed_with_kept(split, split.inputs(asked), prompt))


@pytest.mark.parametrize("graphs", [False, True])
@torch.inference_mode()
def test_planes_change_the_answer_and_are_those_of_each_prompt_in_a_batch(split: Split, graphs: bool) -> None:
    """Prompts of several lengths share a prefill, and a long one is prefilled in chunks: logits are those alone."""
    model = split.services.model
    prompts = [split.prompt(asked, "desap", keep_ratio=0.5) for asked in (IMAGES[5], SEVERAL[1], IMAGES[0])]
    without = [
        Prompt(
            prompt.input_ids,
            tuple(
                dataclasses.replace(one, planes=tuple(map(np.zeros_like, one.planes))) for one in prompt.visual_tokens
            ),
        )
        for prompt in prompts
    ]
    alone = [split.services.answer(prompt)[0] for prompt in prompts]
    for prompt, logits in zip(without, alone, strict=True):
        assert (split.services.answer(prompt)[0] - logits).abs().max() > 0.1
    longest = max(prompt.num_tokens for prompt in prompts)
    runner = ModelRunner(model, SlotCache.for_model(model, [SlotClass(longest + 8, 3)]), few_sizes=graphs)
    if graphs:
        runner.capture_graphs(StandInCapture())
    inputs = [SlotInputs(model.embed(prompt), Slot(0, i)) for i, prompt in enumerate(prompts)]
    for logits, expected in zip(runner.prefill(inputs[:2]), alone[:2], strict=True):
        assert (logits - expected).abs().max() <= MAX_DIFFERENCE
    length = inputs[2].length
    for start, end in ((0, 5), (5, 11), (11, length)):
        chunk = runner.prefill_chunk(inputs[2], start, end)
    assert (chunk[0] - alone[2]).abs().max() <= MAX_DIFFERENCE
