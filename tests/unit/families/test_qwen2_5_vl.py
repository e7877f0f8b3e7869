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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import is_torchvision_available

from benchmarks.checkpoints.tiny import qwen2_5_vl
from encoder_service.media.videos import FrameList
from encoder_service.models.media_features import VideoFrames
from llm_service.prompts import Prompt
from llm_service.settings import LLMSettings
from llm_service.startup import load as load_llm
from tests.unit.families.services import MAX_DIFFERENCE, NEW_TOKENS, Services, answered, assert_same, generate, png

SECONDS_PER_FRAME = 0.5
QUESTION = "what colour is the red circle?"
SHAPES = [(56, 56), (112, 112), (140, 140), (224, 84), (84, 224), (640, 480), (480, 641), (301, 299), (1, 1), (3, 80)]
SHAPES += [(80, 3), (1000, 13), (97, 2000)]


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.NEAREST)


def clip(count: int, size: tuple[int, int]) -> list[Image.Image]:
    return [noise(size, seed) for seed in range(count)]


@dataclasses.dataclass(frozen=True)
class Asked:
    """Images, then videos, then the question."""

    images: Sequence[Image.Image] = ()
    videos: Sequence[Sequence[Image.Image]] = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        content = [{"type": "image"} for _ in self.images] + [{"type": "video"} for _ in self.videos]
        return [{"role": "user", "content": [*content, {"type": "text", "text": QUESTION}]}]


CASES = [Asked([noise(size)]) for size in SHAPES]
CASES += [
    Asked(videos=[clip(4, (112, 84))]),
    Asked(videos=[clip(7, (200, 150))]),
    Asked([noise((112, 84)), noise((300, 99), 1), noise((60, 60), 2)]),
    Asked([noise((112, 84))], [clip(5, (64, 48)), clip(2, (120, 90))]),
]


@dataclasses.dataclass(frozen=True)
class Split:
    """The services and the unsplit model."""

    services: Services
    unsplit: Any
    image_processor: Any
    processor: Any

    def text(self, asked: Asked) -> str:
        tokenizer = self.services.tokenizer
        return str(tokenizer.apply_chat_template(asked.messages, tokenize=False, add_generation_prompt=True))

    def prompt(self, asked: Asked, pruner: str = "none", **options: Any) -> Prompt:
        """The prompt as the LLM service reads it."""
        videos = [FrameList(tuple(map(png, frames)), SECONDS_PER_FRAME) for frames in asked.videos]
        tokens = self.services.visual_tokens(asked.images, videos, question=QUESTION, pruner=pruner, **options)
        return self.services.prompt(self.text(asked), tokens)

    def inputs(self, asked: Asked) -> dict[str, Any]:
        """Inputs of the unsplit model from the processor of transformers."""
        if self.processor is not None:
            return self._processed(asked)
        inputs: dict[str, Any] = {}
        grids = []
        if asked.images:
            inputs |= self.image_processor(images=list(asked.images), return_tensors="pt")
            grids += inputs["image_grid_thw"].tolist()
        if asked.videos:
            clips = [
                self.services.encoder.media.video(VideoFrames(tuple(frames), SECONDS_PER_FRAME))
                for frames in asked.videos
            ]
            inputs["pixel_values_videos"] = self.services.encoder.pixel_values(clips)
            lay = [one.layout for one in clips]
            inputs["video_grid_thw"] = torch.tensor([[one.num_inputs, 2 * one.rows, 2 * one.columns] for one in lay])
            inputs["second_per_grid_ts"] = torch.full((len(clips),), 2 * SECONDS_PER_FRAME)
            grids += inputs["video_grid_thw"].tolist()
        counts = (math.prod(grid) // 4 for grid in grids)
        ids = [
            i
            for token in self.services.tokenizer(self.text(asked))["input_ids"]
            for i in [token] * (next(counts) if token in self.services.model.visual_token_ids else 1)
        ]
        kinds = {self.services.model.image_token_id: 1, self.services.model.video_token_id: 2}
        inputs["input_ids"] = torch.tensor([ids])
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.tensor([[kinds.get(i, 0) for i in ids]])
        return inputs

    def _processed(self, asked: Asked) -> dict[str, Any]:
        media: dict[str, Any] = {}
        if asked.images:
            media["images"] = list(asked.images)
        if asked.videos:
            media["videos"] = [np.stack([np.array(frame) for frame in frames]) for frames in asked.videos]
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


@torch.inference_mode()
def fed_with_kept(split: Split, asked: Asked, prompt: Prompt) -> tuple[torch.Tensor, list[int]]:
    """Answer of the unsplit language model on its whole sequence without the dropped tokens."""
    inputs = split.inputs(asked)
    ids = inputs["input_ids"][0]
    grids = {
        name: inputs[name] for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts") if name in inputs
    }
    position_ids, _ = split.unsplit.model.get_rope_index(inputs["input_ids"], inputs["mm_token_type_ids"], **grids)
    embeds = split.unsplit.get_input_embeddings()(ids)
    going_on: list[int] = []
    place, tokens = 0, iter(prompt.visual_tokens)
    while place < len(ids):
        if ids[place] not in split.services.model.visual_token_ids:
            going_on.append(place)
            place += 1
            continue
        one = next(tokens)
        rows = (place + one.positions).tolist()
        embeds[rows] = torch.from_numpy(one.features)
        going_on += rows
        place += math.prod(one.grid)
    cache, following = None, int(position_ids[0, 0, -1]) + 1
    embeds, position_ids = embeds[going_on][None], position_ids[:, :, going_on]
    first, answer = None, list[int]()
    while True:
        output = split.unsplit.model.language_model(
            inputs_embeds=embeds, position_ids=position_ids, past_key_values=cache, use_cache=True
        )
        logits = split.unsplit.lm_head(output.last_hidden_state[0, -1])
        first = logits if first is None else first
        answer.append(int(logits.argmax()))
        if len(answer) == NEW_TOKENS or answer[-1] in split.services.eos_token_ids:
            return first, answer
        cache, embeds = output.past_key_values, split.unsplit.get_input_embeddings()(torch.tensor([answer[-1:]]))
        position_ids, following = torch.full((3, 1, 1), following), following + 1


@pytest.mark.parametrize("asked", [CASES[5], *CASES[-4:]])
@pytest.mark.parametrize("pruner", ["desap", "holov", "cls"])
def test_pruned_it_is_that_of_the_unsplit_model_fed_with_the_kept_positions(
    split: Split, asked: Asked, pruner: str
) -> None:
    prompt = split.prompt(asked, pruner, keep_ratio=0.3)
    assert_same(split.services.answer(prompt), fed_with_kept(split, asked, prompt))


def test_what_is_kept_as_it_is_is_what_the_unsplit_tower_made(split: Split) -> None:
    asked = Asked([noise((252, 168))])
    [tokens] = split.prompt(asked, "hired", keep_tokens=7).visual_tokens
    inputs = split.image_processor(images=list(asked.images), return_tensors="pt")
    with torch.inference_mode():
        whole = split.unsplit.get_image_features(**inputs).pooler_output[0]
    assert len(tokens.positions) == 7
    np.testing.assert_allclose(tokens.features, whole[tokens.positions].numpy(), atol=MAX_DIFFERENCE)


def test_all_steps_of_a_video_may_compete_for_one_budget(split: Split) -> None:
    asked = Asked(videos=[clip(6, (112, 84))])
    prompt = split.prompt(asked, "desap", joins_frames=True, keep_tokens=9)
    assert prompt.visual_tokens[0].grid == (3, 3, 4)
    assert_same(split.services.answer(prompt), fed_with_kept(split, asked, prompt))
