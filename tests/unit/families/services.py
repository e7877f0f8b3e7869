"""Both services in one process, with the messages of the wire in between, and the unsplit model of transformers."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer

from encoder_service.engine.batching import BatchTiming
from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.feature_cache import FeatureCache
from encoder_service.engine.request_media import EncodeRequest
from encoder_service.media.video_limits import VideoLimits
from encoder_service.media.videos import VideoItem
from encoder_service.models import load as load_encoder
from encoder_service.models.base import EncoderModel, LoadOptions
from encoder_service.pruners import PRUNERS
from encoder_service.server.responses import WireChoice, write_response
from fovea.budget import Budget
from fovea.v1 import tensor_pb2
from llm_service.engine.base import Done, GenerationRequest, PruningParams
from llm_service.engine.model_runner import ModelRunner
from llm_service.engine.slot_cache import SlotCache
from llm_service.engine.slot_prefill import SlotInputs
from llm_service.engine.slots import Slot, SlotClass
from llm_service.models import load_model
from llm_service.models.base import VisionLanguageModel
from llm_service.models.generation_config import read_generation_defaults
from llm_service.prompts import Prompt, read_prompt
from llm_service.pruners import PRUNERS as LLM_PRUNERS
from llm_service.pruners.plan import bind
from llm_service.sampling import SamplingParams
from llm_service.server.served_model import ServedModel
from llm_service.settings import LLMSettings
from llm_service.startup import load as load_llm

__all__ = [
    "MAX_DIFFERENCE",
    "NEW_TOKENS",
    "Services",
    "answered",
    "assert_same",
    "engine_of",
    "generate",
    "noise",
    "png",
]

NEW_TOKENS: Final = 32
MAX_DIFFERENCE: Final = 1e-4

Answer = tuple[torch.Tensor, list[int]]
"""First-token logits and greedy tokens."""


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def engine_of(encoder: EncoderModel, cache_bytes: int = 0) -> EncoderEngine:
    return EncoderEngine(
        encoder,
        FeatureCache(cache_bytes),
        max_batch_size=32,
        max_image_bytes=10**7,
        max_image_pixels=10**7,
        video_limits=VideoLimits(),
    )


@dataclasses.dataclass(frozen=True)
class Services:
    """The models of both services, and the tokenizers of the gateway."""

    encoder: EncoderModel
    llm: ServedModel
    model: VisionLanguageModel
    tokenizer: Any
    text_tokenizer: Any
    eos_token_ids: frozenset[int]

    @classmethod
    def load(cls, folder: Path, text_tower: Path | None = None) -> Services:
        """Loads a checkpoint; without a text tower, questions go to the encoder in the ids of the language model."""
        torch.set_num_threads(1)
        options = LoadOptions(text_tower="" if text_tower is None else str(text_tower), device="cpu")
        model = load_model(folder, device=torch.device("cpu"), dtype="float32", attn_implementation="sdpa")
        return cls(
            load_encoder(str(folder), options),
            load_llm(LLMSettings(model=str(folder), device="cpu", num_threads=1)),
            model,
            AutoTokenizer.from_pretrained(folder),
            AutoTokenizer.from_pretrained(text_tower or folder),
            read_generation_defaults(folder, model.config_eos_token_ids, "greedy").eos_token_ids,
        )

    def visual_tokens(
        self,
        images: Sequence[Image.Image] = (),
        videos: Sequence[VideoItem] = (),
        *,
        question: str = "what is on the left?",
        pruner: str = "none",
        params: dict[str, Any] | None = None,
        joins_frames: bool = False,
        keep_tokens: int | None = None,
        keep_ratio: float | None = None,
    ) -> list[tensor_pb2.VisualTokens]:
        """Visual tokens in the response of the encoder service."""
        engine = engine_of(self.encoder)
        request = EncodeRequest(
            tuple(map(png, images)),
            tuple(self.text_tokenizer(question)["input_ids"]),
            PRUNERS[pruner].bind(params or {}),
            Budget.of(keep_tokens, keep_ratio) or Budget.ratio(1.0),
            videos=tuple(videos),
            joins_frames=joins_frames,
        )
        (outcome,) = engine.run([engine.prepare(request)])
        assert not isinstance(outcome, Exception), outcome
        response = write_response(
            outcome,
            BatchTiming(0, 0, 0, 1),
            pruner,
            self.encoder.fingerprint,
            WireChoice(tensor_pb2.DTYPE_FLOAT32),
            explain=True,
        )
        return list(response.visual_tokens)

    def prompt(self, text: str, tokens: Sequence[tensor_pb2.VisualTokens]) -> Prompt:
        """The prompt as the LLM service reads it."""
        return read_prompt(self.tokenizer(text)["input_ids"], tokens, self.llm.limits)

    @torch.inference_mode()
    def answer(self, prompt: Prompt) -> Answer:
        """First-token logits and greedy tokens of the LLM service."""
        cache = SlotCache.for_model(self.model, [SlotClass(prompt.num_tokens + NEW_TOKENS, 1)])
        runner = ModelRunner(self.model, cache, few_sizes=False)
        logits = runner.prefill([SlotInputs(self.model.embed(prompt), Slot(0, 0))])
        tokens = [int(logits[0].argmax())]
        while len(tokens) < NEW_TOKENS and tokens[-1] not in self.eos_token_ids:
            tokens.append(int(runner.decode(torch.tensor(tokens[-1:]))[0].argmax()))
        return logits[0], tokens

    async def answer_pruned_inside(self, prompt: Prompt, llm_pruner: str, keep_ratio: float) -> Done:
        """The last event of an answer whose visual tokens `llm_pruner` drops inside the language model."""
        pruning = PruningParams(bind(LLM_PRUNERS[llm_pruner], {}), Budget.ratio(keep_ratio))
        request = GenerationRequest(
            prompt, SamplingParams(max_tokens=8), deadline=time.monotonic() + 60, pruning=pruning
        )
        engine = self.llm.engine
        generation = engine.submit(request)
        while engine.num_waiting or engine.num_running:
            engine.step()
        done = [event async for event in generation][-1]
        assert isinstance(done, Done)
        return done


async def answered(llm: ServedModel, prompt: Prompt) -> list[int]:
    """Token ids of an answer with the checkpoint's own defaults."""
    sampling = SamplingParams(max_tokens=NEW_TOKENS, **dataclasses.asdict(llm.default_sampling))
    generation = llm.engine.submit(GenerationRequest(prompt, sampling, deadline=time.monotonic() + 60))
    while llm.engine.num_waiting or llm.engine.num_running:
        llm.engine.step()
    done = [event async for event in generation][-1]
    assert isinstance(done, Done)
    return done.token_ids


@torch.inference_mode()
def generate(unsplit: Any, **inputs: Any) -> Answer:
    """First-token logits and greedy tokens of the unsplit model."""
    output = unsplit.generate(
        **inputs,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    return output.logits[0][0], output.sequences[0, length:].tolist()


def assert_same(got: Answer, want: Answer) -> None:
    assert (got[0] - want[0]).abs().max() <= MAX_DIFFERENCE
    assert got[1] == want[1]
