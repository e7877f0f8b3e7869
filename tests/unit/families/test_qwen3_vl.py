"""Qwen3-VL split over both services gives the answers of the unsplit model of transformers.

The services' own code from image and video files to token ids, in one process, with the messages of the wire in
between. transformers' processor as a whole needs torchvision; its parts are used: the image processor in its PIL form,
and the processor's own text for a video. The pixels of videos are the encoder's, which tests/unit/encoder_service
compares on their own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.video_utils import VideoMetadata

from benchmarks.checkpoints.tiny import qwen3_vl
from encoder_service.media.videos import FrameList
from encoder_service.models.media_features import VideoFrames
from fovea.modeling.capture import StandInCapture
from llm_service.engine.model_runner import ModelRunner
from llm_service.engine.slot_cache import SlotCache
from llm_service.engine.slot_prefill import SlotInputs
from llm_service.engine.slots import Slot, SlotClass
from llm_service.prompts import Prompt
from tests.unit.families.services import MAX_DIFFERENCE, NEW_TOKENS, Answer, Services, assert_same, generate, png

SECONDS_PER_FRAME = 0.7
QUESTION = "what colour is the red circle?"
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


IMAGES = [Asked([noise(size)]) for size in SHAPES]
SEVERAL = [
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

    def text(self, asked: Asked) -> str:
        tokenizer = self.services.tokenizer
        return str(tokenizer.apply_chat_template(asked.messages, tokenize=False, add_generation_prompt=True))

    def prompt(self, asked: Asked, pruner: str = "none", **options: Any) -> Prompt:
        """The prompt as the LLM service reads it."""
        videos = [FrameList(tuple(map(png, frames)), SECONDS_PER_FRAME) for frames in asked.videos]
        tokens = self.services.visual_tokens(asked.images, videos, question=QUESTION, pruner=pruner, **options)
        return self.services.prompt(self.text(asked), tokens)

    def inputs(self, asked: Asked) -> dict[str, Any]:
        """Inputs of the unsplit model, with the text of transformers' processor."""
        inputs: dict[str, Any] = {}
        images, videos = list[str](), list[str]()
        if asked.images:
            inputs |= self.image_processor(images=list(asked.images), return_tensors="pt")
            images = ["<|image_pad|>" * (math.prod(grid) // 4) for grid in inputs["image_grid_thw"].tolist()]
        if asked.videos:
            encoder = self.services.encoder
            clips = [encoder.media.video(VideoFrames(tuple(one), SECONDS_PER_FRAME)) for one in asked.videos]
            inputs["pixel_values_videos"] = encoder.pixel_values(clips)
            lay = [one.layout for one in clips]
            inputs["video_grid_thw"] = torch.tensor([[one.num_inputs, 2 * one.rows, 2 * one.columns] for one in lay])
            videos = self._video_texts(asked, inputs["video_grid_thw"])
        [text], _ = Qwen3VLProcessor.get_text_with_replacements(PROCESSOR, [self.text(asked)], images, videos)
        ids = torch.tensor([self.services.tokenizer(text)["input_ids"]])
        model = self.services.model
        kinds = torch.where(ids == model.image_token_id, 1, torch.where(ids == model.video_token_id, 2, 0))
        return inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}

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


@torch.inference_mode()
def fed_with_kept(split: Split, asked: Asked, prompt: Prompt) -> Answer:
    """Answer of the unsplit language model on its whole sequence without the dropped tokens."""
    inputs = split.inputs(asked)
    ids = inputs["input_ids"][0]
    grids = {name: inputs[name] for name in ("image_grid_thw", "video_grid_thw") if name in inputs}
    position_ids, _ = split.unsplit.model.get_rope_index(inputs["input_ids"], inputs["mm_token_type_ids"], **grids)
    embeds = split.unsplit.get_input_embeddings()(ids)
    planes = embeds.new_zeros(3, *embeds.shape)
    kept_tokens: list[int] = []
    index, tokens = 0, iter(prompt.visual_tokens)
    while index < len(ids):
        if ids[index] not in split.services.model.visual_token_ids:
            kept_tokens.append(index)
            index += 1
            continue
        one = next(tokens)
        at = (index + one.positions).tolist()
        embeds[at] = torch.from_numpy(one.features)
        planes[:, at] = torch.from_numpy(np.stack(one.planes))
        kept_tokens += at
        index += math.prod(one.grid)
    is_visual = torch.isin(ids[kept_tokens], torch.tensor(split.services.model.visual_token_ids))[None]
    deepstack = {
        "visual_pos_masks": is_visual,
        "deepstack_visual_embeds": list(planes[:, kept_tokens][:, is_visual[0]]),
    }
    cache, following = None, int(position_ids[0, 0, -1]) + 1
    embeds, position_ids = embeds[kept_tokens][None], position_ids[:, :, kept_tokens]
    first, answer = None, list[int]()
    while True:
        output = split.unsplit.model.language_model(
            inputs_embeds=embeds, position_ids=position_ids, past_key_values=cache, use_cache=True, **deepstack
        )
        logits = split.unsplit.lm_head(output.last_hidden_state[0, -1])
        first = logits if first is None else first
        answer.append(int(logits.argmax()))
        if len(answer) == NEW_TOKENS or answer[-1] in split.services.eos_token_ids:
            return first, answer
        cache, embeds = output.past_key_values, split.unsplit.get_input_embeddings()(torch.tensor([answer[-1:]]))
        position_ids, following, deepstack = torch.full((3, 1, 1), following), following + 1, {}


@pytest.mark.parametrize("asked", [IMAGES[5], *SEVERAL])
@pytest.mark.parametrize("pruner", ["desap", "fovea", "cdpruner", "random"])
def test_pruned_it_is_that_of_the_unsplit_model_fed_with_the_kept_positions(
    split: Split, asked: Asked, pruner: str
) -> None:
    prompt = split.prompt(asked, pruner, keep_ratio=0.3)
    assert_same(split.services.answer(prompt), fed_with_kept(split, asked, prompt))


def test_a_kept_token_has_the_features_and_planes_of_the_unsplit_tower(split: Split) -> None:
    asked = Asked([noise((288, 192))])
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
    asked = Asked(videos=[clip(12, (112, 84))])
    prompt = split.prompt(asked, "desap", joins_frames=True, keep_tokens=4)
    counts = [tokens.num_tokens for tokens in prompt.visual_tokens]
    assert len(counts) == 6
    assert sum(counts) == 4
    assert 0 in counts
    assert_same(split.services.answer(prompt), fed_with_kept(split, asked, prompt))


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
