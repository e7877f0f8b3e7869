"""LLaVA-NeXT split over both services gives the answers of the unsplit model of transformers, fed by its own processor.

The services' own code from image file to token ids, in one process, with the messages of the wire in between.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor

from benchmarks.checkpoints.tiny import clip, llava_next
from llm_service.prompts import Prompt
from llm_service.pruners import PRUNERS as LLM_PRUNERS
from tests.unit.families.services import Services, assert_same, generate, noise

SHAPES = [
    (56, 56),
    (112, 112),
    (56, 112),
    (168, 56),
    (1, 1),
    (5, 7),
    (3, 250),
    (61, 47),
    (113, 56),
    (97, 131),
    (333, 217),
    (640, 480),
    (1000, 10),
    (10, 1000),
    (999, 331),
]


@dataclasses.dataclass(frozen=True)
class Split:
    """The services and the unsplit model."""

    services: Services
    unsplit: Any
    processor: Any

    def prompt(self, images: Sequence[Image.Image], text: str, pruner: str = "none", **options: Any) -> Prompt:
        """The prompt as the LLM service reads it."""
        tokens = self.services.visual_tokens(images, question=text, pruner=pruner, **options)
        return self.services.prompt(text, tokens)

    def spliced(self, prompt: Prompt, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """The unsplit model's inputs with `rows` in place of the visual tokens of the image."""
        ids = torch.tensor(prompt.input_ids)
        place = int((ids == self.unsplit.config.image_token_id).nonzero())
        words = self.unsplit.get_input_embeddings()(ids)
        embeds = torch.cat([words[:place], rows, words[place + 1 :]])[None].detach()
        return {"inputs_embeds": embeds, "attention_mask": torch.ones(embeds.shape[:2], dtype=torch.long)}

    def assert_same(self, prompt: Prompt, **inputs: Any) -> None:
        assert_same(self.services.answer(prompt), generate(self.unsplit, **inputs))


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Split]:
    made: dict[str, Split] = {}
    root = tmp_path_factory.mktemp("next")
    clip.write(root / "clip")

    def split(text: str) -> Split:
        if text not in made:
            folder = llava_next.write(root / text, text=text)
            made[text] = Split(
                Services.load(folder, root / "clip"),
                LlavaNextForConditionalGeneration.from_pretrained(folder).eval(),
                LlavaNextProcessor.from_pretrained(folder),
            )
        return made[text]

    return split


def chat(split: Split, question: str, num_images: int) -> str:
    content = [*[{"type": "image"}] * num_images, {"type": "text", "text": question}]
    text: str = split.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return text


@pytest.mark.parametrize("size", SHAPES)
def test_one_image(size: tuple[int, int], make: Callable[[str], Split]) -> None:
    split = make("llama")
    text = chat(split, "what colour is the circle?", 1)
    prompt = split.prompt([noise(size)], text)
    inputs = split.processor(images=noise(size), text=text, return_tensors="pt")
    assert prompt.num_tokens == inputs["input_ids"].shape[1]
    split.assert_same(prompt, **inputs)


@pytest.mark.parametrize("text_model", ["llama", "mistral"])
@pytest.mark.parametrize("sizes", [[(61, 47), (300, 100)], [(10, 1000), (56, 56), (120, 120)]])
def test_several_images(text_model: str, sizes: list[tuple[int, int]], make: Callable[[str], Split]) -> None:
    split = make(text_model)
    images = [noise(size, seed) for seed, size in enumerate(sizes)]
    for text in (chat(split, "which is larger?", len(sizes)), "first <image> then" + "<image>" * (len(sizes) - 1)):
        prompt = split.prompt(images, text)
        split.assert_same(prompt, **split.processor(images=images, text=text, return_tensors="pt"))


@torch.inference_mode()
def packed(split: Split, image: Image.Image) -> dict[int, torch.Tensor]:
    """The projected visual token of each patch from transformers, by its position on the wire."""
    pixel_values = split.processor.image_processor(images=image, return_tensors="pt")["pixel_values"][0]
    hidden = split.unsplit.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]
    return dict(enumerate(split.unsplit.model.multi_modal_projector(hidden).flatten(0, 1)))


@pytest.mark.parametrize(
    ("pruner", "params"),
    [("hired", {}), ("hired", {"alpha": 0.25}), ("hired", {"fidelity": True}), ("holov", {}), ("holov", {"crops": 3})],
)
@pytest.mark.parametrize("size", [(112, 112), (300, 120), (1000, 10)])
def test_pruned_is_the_unsplit_model_fed_with_the_kept_positions(
    pruner: str, params: dict[str, Any], size: tuple[int, int], make: Callable[[str], Split]
) -> None:
    split = make("llama")
    text = chat(split, "how many objects are there?", 1)
    prompt = split.prompt([noise(size)], text, pruner, params=params, keep_ratio=1 / 4)
    (tokens,) = prompt.visual_tokens
    assert not len(tokens.newline_after)
    rows = packed(split, noise(size))
    kept = torch.stack([rows[position] for position in tokens.positions.tolist()])
    split.assert_same(prompt, **split.spliced(prompt, kept))


@pytest.mark.parametrize("pruner", ["desap", "visionzip", "prumerge", "flowcut"])
def test_methods_that_change_features_answer_what_the_unsplit_language_model_answers_to_them(
    pruner: str, make: Callable[[str], Split]
) -> None:
    split = make("llama")
    text = chat(split, "is there a letter?", 1)
    prompt = split.prompt([noise((300, 120))], text, pruner, keep_ratio=1 / 9)
    (tokens,) = prompt.visual_tokens
    with torch.inference_mode():
        kept = split.unsplit.model.multi_modal_projector(torch.from_numpy(tokens.features))
    split.assert_same(prompt, **split.spliced(prompt, kept))


@pytest.mark.parametrize("name", LLM_PRUNERS)
async def test_pruners_inside_the_language_model_count_patches_and_leave_ends_of_lines(
    name: str, make: Callable[[str], Split]
) -> None:
    split = make("llama")
    prompt = split.prompt([noise((300, 120))], chat(split, "what is on the left?", 1))
    (tokens,) = prompt.visual_tokens
    assert len(tokens.newline_after)
    services = split.services
    whole = await services.answer_pruned_inside(prompt, name, 1.0)
    assert list(whole.token_ids) == services.answer(prompt)[1][:8]
    by_layer = (await services.answer_pruned_inside(prompt, name, 0.6)).visual_tokens_by_layer
    assert by_layer[0] == len(tokens.positions)
    assert by_layer[-1] < by_layer[0]
