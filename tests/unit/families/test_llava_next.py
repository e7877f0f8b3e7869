"""LLaVA-NeXT split over both services says what the unsplit model of transformers says, fed by its own processor.

The services' own code from picture file to token ids, in one process, with the messages of the wire in between.
"""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, LlavaNextForConditionalGeneration, LlavaNextProcessor

from benchmarks.tiny import clip, llava_next
from encoder_service.batching import Batched
from encoder_service.engine import EncodeRequest, Engine
from encoder_service.feature_cache import FeatureCache
from encoder_service.models import load as load_encoder
from encoder_service.models.base import EncoderModel, LoadOptions
from encoder_service.pruners import PRUNERS
from encoder_service.servicer import Wire, write_response
from fovea.v1 import tensor_pb2
from llm_service.engines.base import Done, GenerationRequest, Pruning
from llm_service.engines.runner import ModelRunner
from llm_service.models import load_model
from llm_service.models.base import VisionLanguageModel
from llm_service.prompts import Prompt, read_prompt
from llm_service.pruners import PRUNERS as LLM_PRUNERS
from llm_service.pruners.plan import Budget, bind
from llm_service.sampling import SamplingParams
from llm_service.servicer import ServedModel
from llm_service.settings import LLMSettings
from llm_service.startup import load as load_llm

NEW_TOKENS = 32
MAX_DIFFERENCE = 1e-4

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


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


@dataclasses.dataclass(frozen=True)
class Split:
    """Both services' models and the unsplit one."""

    encoder: EncoderModel
    llm: ServedModel
    model: VisionLanguageModel
    unsplit: Any
    processor: Any
    tokenizer: Any
    clip_tokenizer: Any

    def visual_tokens(
        self, images: Sequence[Image.Image], question: str, pruner: str, params: dict[str, Any], **budget: Any
    ) -> list[tensor_pb2.VisualTokens]:
        """What the encoder service answers."""
        files = []
        for image in images:
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            files.append(buffer.getvalue())
        engine = Engine(self.encoder, FeatureCache(0), max_batch_size=4, max_image_bytes=10**7, max_image_pixels=10**7)
        text_ids = tuple(self.clip_tokenizer(question)["input_ids"])
        request = EncodeRequest(tuple(files), text_ids, PRUNERS[pruner].bind(params), **budget)
        (outcome,) = engine.run([engine.prepare(request)])
        assert not isinstance(outcome, Exception), outcome
        response = write_response(
            Batched(outcome, 0, 0, 0, 1),
            pruner,
            self.encoder.fingerprint,
            Wire(tensor_pb2.DTYPE_FLOAT32),
            explain=False,
        )
        return list(response.visual_tokens)

    def prompt(
        self,
        images: Sequence[Image.Image],
        text: str,
        pruner: str = "none",
        params: dict[str, Any] | None = None,
        **budget: Any,
    ) -> Prompt:
        """What the LLM service reads."""
        tokens = self.visual_tokens(images, text, pruner, params or {}, **(budget or {"keep_ratio": 1.0}))
        return read_prompt(self.tokenizer(text)["input_ids"], tokens, self.llm.limits)

    @torch.inference_mode()
    def answer(self, prompt: Prompt) -> tuple[torch.Tensor, list[int]]:
        """First-token logits and greedy tokens."""
        runner = ModelRunner(self.model)
        logits = runner.prefill([self.model.embed(prompt)])
        tokens = [int(logits[0].argmax())]
        while len(tokens) < NEW_TOKENS and tokens[-1] not in self.model.eos_token_ids:
            tokens.append(int(runner.decode(tokens[-1:])[0].argmax()))
        return logits[0], tokens

    @torch.inference_mode()
    def unsplit_answer(self, **inputs: Any) -> tuple[torch.Tensor, list[int]]:
        output = self.unsplit.generate(
            **inputs,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=3,
            return_dict_in_generate=True,
            output_logits=True,
        )
        length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        return output.logits[0][0], output.sequences[0, length:].tolist()

    def assert_same(self, prompt: Prompt, **inputs: Any) -> None:
        (logits, tokens), (want_logits, want_tokens) = self.answer(prompt), self.unsplit_answer(**inputs)
        assert (logits - want_logits).abs().max() <= MAX_DIFFERENCE
        assert tokens == want_tokens


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Split]:
    made: dict[str, Split] = {}
    root = tmp_path_factory.mktemp("next")
    clip.write(root / "clip")

    def split(text: str) -> Split:
        if text not in made:
            folder = llava_next.write(root / text, text=text)
            made[text] = Split(
                load_encoder(str(folder), LoadOptions(text_tower=str(root / "clip"), device="cpu")),
                load_llm(LLMSettings(model=str(folder), device="cpu", num_threads=1)),
                load_model(folder, device=torch.device("cpu"), dtype="float32", attn_implementation="sdpa"),
                LlavaNextForConditionalGeneration.from_pretrained(folder).eval(),
                LlavaNextProcessor.from_pretrained(folder),
                AutoTokenizer.from_pretrained(folder),
                AutoTokenizer.from_pretrained(root / "clip"),
            )
        return made[text]

    return split


def chat(split: Split, question: str, num_images: int) -> str:
    content = [*[{"type": "image"}] * num_images, {"type": "text", "text": question}]
    text: str = split.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return text


@pytest.mark.parametrize("size", SHAPES)
def test_one_picture(size: tuple[int, int], make: Callable[[str], Split]) -> None:
    split = make("llama")
    text = chat(split, "what colour is the circle?", 1)
    prompt = split.prompt([noise(size)], text)
    inputs = split.processor(images=noise(size), text=text, return_tensors="pt")
    assert prompt.num_tokens == inputs["input_ids"].shape[1]
    split.assert_same(prompt, **inputs)


@pytest.mark.parametrize("text_model", ["llama", "mistral"])
@pytest.mark.parametrize("sizes", [[(61, 47), (300, 100)], [(10, 1000), (56, 56), (120, 120)]])
def test_several_pictures(text_model: str, sizes: list[tuple[int, int]], make: Callable[[str], Split]) -> None:
    split = make(text_model)
    images = [noise(size, seed) for seed, size in enumerate(sizes)]
    for text in (chat(split, "which is larger?", len(sizes)), "first <image> then" + "<image>" * (len(sizes) - 1)):
        prompt = split.prompt(images, text)
        split.assert_same(prompt, **split.processor(images=images, text=text, return_tensors="pt"))


@torch.inference_mode()
def packed(split: Split, image: Image.Image) -> dict[int, torch.Tensor]:
    """The projected row of each patch as transformers makes it, under its number on the wire."""
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
    prompt = split.prompt([noise(size)], text, pruner, params, keep_ratio=1 / 4)
    (tokens,) = prompt.visual_tokens
    assert not len(tokens.newline_after)
    rows = packed(split, noise(size))
    kept = torch.stack([rows[position] for position in tokens.positions.tolist()])
    ids = torch.tensor(prompt.input_ids)
    place = int((ids == split.unsplit.config.image_token_id).nonzero())
    words = split.unsplit.get_input_embeddings()(ids)
    embeds = torch.cat([words[:place], kept, words[place + 1 :]])[None]
    split.assert_same(prompt, inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long))


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
    ids = torch.tensor(prompt.input_ids)
    place = int((ids == split.unsplit.config.image_token_id).nonzero())
    words = split.unsplit.get_input_embeddings()(ids)
    embeds = torch.cat([words[:place], kept, words[place + 1 :]])[None]
    split.assert_same(prompt, inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long))


@pytest.mark.parametrize("name", LLM_PRUNERS)
async def test_pruners_inside_the_language_model_count_patches_and_leave_ends_of_lines(
    name: str, make: Callable[[str], Split]
) -> None:
    split = make("llama")
    prompt = split.prompt([noise((300, 120))], chat(split, "what is on the left?", 1))
    (tokens,) = prompt.visual_tokens
    assert len(tokens.newline_after)

    async def ask(keep_ratio: float) -> Done:
        pruning = Pruning(bind(LLM_PRUNERS[name], {}), Budget(keep_ratio=keep_ratio))
        request = GenerationRequest(
            prompt, SamplingParams(max_tokens=8), deadline=time.monotonic() + 60, pruning=pruning
        )
        engine = split.llm.engine
        generation = engine.submit(request)
        while engine.num_waiting or engine.num_running:
            engine.step()
        done = [event async for event in generation][-1]
        assert isinstance(done, Done)
        return done

    assert list((await ask(1.0)).token_ids) == split.answer(prompt)[1][:8]
    by_layer = (await ask(0.6)).visual_tokens_by_layer
    assert by_layer[0] == len(tokens.positions)
    assert by_layer[-1] < by_layer[0]
