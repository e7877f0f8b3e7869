"""Qwen2.5-VL split over both services gives the answers of the unsplit model of transformers.

The services' own code from image and video files to token ids, in one process, with the messages of the wire in
between. transformers' processor needs torchvision, and is used where that is installed. Elsewhere its parts are used:
the image processor in its PIL form, ids with one placeholder repeated, and for videos the encoder's own patches, which
tests/unit/encoder_service compares on their own.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import is_torchvision_available

from benchmarks.checkpoints.tiny import qwen2_5_vl
from llm_service.settings import LLMSettings
from llm_service.startup import load as load_llm
from tests.unit.encoder_service.coarse_images import frames, image
from tests.unit.families.qwen import SEVERAL, Asked, QwenSplit, fed_with_kept
from tests.unit.families.services import MAX_DIFFERENCE, Services, answered, assert_same, generate

SECONDS_PER_FRAME = 0.5
SHAPES = [(56, 56), (112, 112), (140, 140), (224, 84), (84, 224), (640, 480), (480, 641), (301, 299), (1, 1), (3, 80)]
SHAPES += [(80, 3), (1000, 13), (97, 2000)]


CASES = [*(Asked([image(size)]) for size in SHAPES), *SEVERAL]


@dataclasses.dataclass(frozen=True)
class Split(QwenSplit):
    """`QwenSplit` with the whole processor of transformers; None without torchvision."""

    processor: Any

    def inputs(self, asked: Asked) -> dict[str, Any]:
        """Inputs of the unsplit model from the processor of transformers."""
        if self.processor is not None:
            return self._processed(asked)
        inputs = self.media(asked)
        if asked.videos:
            inputs["second_per_grid_ts"] = torch.full((len(asked.videos),), 2 * SECONDS_PER_FRAME)
        grids = [grid for name in ("image_grid_thw", "video_grid_thw") if name in inputs for grid in inputs[name]]
        counts = (math.prod(grid.tolist()) // 4 for grid in grids)
        ids = [
            i
            for token in self.services.tokenizer(self.text(asked))["input_ids"]
            for i in [token] * (next(counts) if token in self.services.model.visual_token_ids else 1)
        ]
        return inputs | self.text_inputs(ids)

    def _processed(self, asked: Asked) -> dict[str, Any]:
        media: dict[str, Any] = {}
        if asked.images:
            media["images"] = list(asked.images)
        if asked.videos:
            media["videos"] = [np.stack([np.array(frame) for frame in one]) for one in asked.videos]
            media["video_metadata"] = [
                {"fps": 1 / SECONDS_PER_FRAME, "total_num_frames": len(one), "frames_indices": list(range(len(one)))}
                for one in asked.videos
            ]
        return dict(self.processor(text=[self.text(asked)], return_tensors="pt", **media))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = qwen2_5_vl.write(tmp_path_factory.mktemp("qwen"))
    services, image_processor = Services.load(folder), Qwen2VLImageProcessorPil.from_pretrained(folder)
    return Split(
        services,
        Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval(),
        image_processor,
        SECONDS_PER_FRAME,
        _processor(folder, image_processor, services.tokenizer) if is_torchvision_available() else None,
    )


def _processor(folder: Any, image_processor: Any, tokenizer: Any) -> Any:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLVideoProcessor

    videos = Qwen2VLVideoProcessor.from_pretrained(folder, cap_pixels_per_frame=False)
    return Qwen2_5_VLProcessor(image_processor, tokenizer, videos, chat_template=tokenizer.chat_template)


@pytest.mark.parametrize("asked", CASES)
def test_nothing_pruned_the_answer_is_that_of_the_unsplit_model(split: Split, asked: Asked) -> None:
    prompt = split.prompt(asked)
    assert_same(split.services.answer(prompt), generate(split.unsplit, **split.inputs(asked)))


@pytest.mark.parametrize("penalty", [1.05, 1.3])
async def test_the_checkpoints_repetition_penalty_gives_the_answers_of_generate(
    split: Split, tmp_path: Path, penalty: float
) -> None:
    folder = qwen2_5_vl.write(tmp_path)
    path = folder / "generation_config.json"
    content = json.loads(path.read_text()) | {"repetition_penalty": penalty, "do_sample": True, "temperature": 0.1}
    path.write_text(json.dumps(content))
    llm = load_llm(LLMSettings(model=str(folder), device="cpu", num_threads=1))
    unsplit = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    expected = [generate(unsplit, **split.inputs(asked))[1] for asked in CASES]
    assert [await answered(llm, split.prompt(asked)) for asked in CASES] == expected
    assert [split.services.answer(split.prompt(asked))[1] for asked in CASES] != expected


@pytest.mark.parametrize("asked", [CASES[5], *CASES[-4:]])
@pytest.mark.parametrize("pruner", ["desap", "holov", "cls"])
def test_pruned_it_is_that_of_the_unsplit_model_fed_with_the_kept_positions(
    split: Split, asked: Asked, pruner: str
) -> None:
    prompt = split.prompt(asked, pruner, keep_ratio=0.3)
    assert_same(split.services.answer(prompt), fed_with_kept(split, split.inputs(asked), prompt))


def test_what_is_kept_as_it_is_is_what_the_unsplit_tower_made(split: Split) -> None:
    asked = Asked([image((252, 168))])
    [tokens] = split.prompt(asked, "hired", keep_tokens=7).visual_tokens
    inputs = split.image_processor(images=list(asked.images), return_tensors="pt")
    with torch.inference_mode():
        whole = split.unsplit.get_image_features(**inputs).pooler_output[0]
    assert len(tokens.positions) == 7
    np.testing.assert_allclose(tokens.features, whole[tokens.positions].numpy(), atol=MAX_DIFFERENCE)


def test_all_steps_of_a_video_may_compete_for_one_budget(split: Split) -> None:
    asked = Asked(videos=[frames(6, (112, 84))])
    prompt = split.prompt(asked, "desap", joins_frames=True, keep_tokens=9)
    assert prompt.visual_tokens[0].grid == (3, 3, 4)
    assert_same(split.services.answer(prompt), fed_with_kept(split, split.inputs(asked), prompt))
