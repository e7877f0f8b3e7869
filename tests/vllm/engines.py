"""Both engines on the same tiny checkpoint, and requests for them."""

from __future__ import annotations

import asyncio
import importlib
import math
import time
from pathlib import Path

import numpy as np
import torch
from prometheus_client import REGISTRY
from safetensors.torch import load_file, save_file

from llm_service.engine.base import Done, GenerationRequest
from llm_service.penalties import SeenIds, penalize
from llm_service.prompts import Prompt, VisualTokens
from llm_service.sampling import SamplingParams
from llm_service.settings import LLMSettings
from llm_service.startup import load

FAMILIES = ("llava", "llava_next", "video_llava", "qwen2_5_vl", "qwen3_vl")
MAX_MODEL_LEN = 512
MAX_BATCH_SIZE = 16
BOS, FIRST_WORD, LAST_WORD = 1, 10, 300

_TOWERS = ("vision_tower.", "image_tower.", "video_tower.", "visual.", "model.visual.")


def write(family: str, folder: Path) -> Path:
    return Path(importlib.import_module(f"benchmarks.checkpoints.tiny.{family}").write(folder))


def drop_towers(checkpoint: Path) -> None:
    """Removes the towers from a checkpoint, so that reading one fails."""
    weights = checkpoint / "model.safetensors"
    tensors = load_file(weights)
    kept = {name: t for name, t in tensors.items() if not name.removeprefix("model.").startswith(_TOWERS)}
    assert len(kept) < len(tensors)
    save_file(kept, weights, metadata={"format": "pt"})


def served(checkpoint: Path, engine: str, **settings):
    options = {"max_model_len": MAX_MODEL_LEN, "max_batch_size": MAX_BATCH_SIZE, **settings}
    if engine == "vllm":
        options.setdefault("engine_args", {"enforce_eager": True})
    return load(LLMSettings(model=str(checkpoint), engine=engine, device="cpu", dtype="float32", **options))


class Requests:
    """Factory of requests that fit a model's limits."""

    def __init__(self, limits):
        self.limits = limits

    def visual(self, count, *, seed=0, video=False, scale=1.0):
        """`count` tokens of an image of 16 x 16 patches, or of a video of 4 frames of 8 x 8."""
        rng = np.random.default_rng(seed)
        features, *planes = (
            rng.standard_normal((count, self.limits.visual_hidden_size), dtype=np.float32) * np.float32(scale)
            for _ in range(1 + self.limits.num_planes)
        )
        grid = (4, 8, 8) if video else (1, 16, 16)
        positions = np.sort(rng.permutation(math.prod(grid))[:count])
        newline_after = np.array([0, count - 1]) if self.limits.has_newline else np.empty(0, np.int64)
        return VisualTokens(features, positions, grid, newline_after, video, 0.5 if video else 0.0, tuple(planes))

    def make(self, words, visuals=(), *, deadline_s=120.0, logprobs=False, top_logprobs=None, **sampling):
        """BOS, then each image or video preceded by a share of the words. A family may write videos frame by frame."""
        limits, ids, visual_tokens = self.limits, [BOS], []
        shares = np.array_split(np.array(words), len(visuals) + 1)
        for share, visual in zip(shares, visuals, strict=False):
            ids += share.tolist()
            if visual.is_video and limits.frame_prompt:
                ids += limits.frame_prompt.ids([visual.seconds_per_frame * i for i in range(visual.grid[0])])
                visual_tokens += visual.by_frame()
            else:
                ids.append(limits.video_token_id if visual.is_video else limits.image_token_id)
                visual_tokens.append(visual)
        return GenerationRequest(
            Prompt(np.array([*ids, *shares[-1].tolist()]), tuple(visual_tokens)),
            SamplingParams(**{"max_tokens": 16, **sampling}),
            deadline=time.monotonic() + deadline_s,
            first_token_logprobs=logprobs,
            top_logprobs=top_logprobs,
        )

    def several(self, number, **sampling):
        """Prompts of all kinds: text, pruned and unpruned images and videos, adjacent and apart."""
        rng = np.random.default_rng(7)
        for i in range(number):
            words = rng.integers(FIRST_WORD, LAST_WORD, size=rng.integers(2, 40))
            counts = [[], [28], [256], [5, 9], [1], [28, 64, 3]][i % 6]
            visuals = [
                self.visual(count, seed=100 * i + j, video=self.limits.video_token_id is not None and (i + j) % 2 == 1)
                for j, count in enumerate(counts)
            ]
            yield self.make(words[: 2 if i % 4 == 3 else None], visuals, **sampling)


async def read(generation):
    """Text, pieces and `Done` of an answer."""
    events = [event async for event in generation]
    assert isinstance(events[-1], Done)
    pieces = [event.text for event in events[:-1]]
    return "".join(pieces), pieces, events[-1]


async def answers(engine, requests):
    return await asyncio.gather(*(read(engine.submit(request)) for request in requests))


@torch.inference_mode()
def gap(model, request, tokens):
    """Difference of the two largest logits, after penalties, that follow a prompt and some tokens of its answer."""
    inputs = model.embed(request.prompt)
    embeds, position_ids, planes = inputs.inputs_embeds, inputs.position_ids, inputs.planes
    if tokens:
        embeds = torch.cat([embeds, model.causal_lm.get_input_embeddings()(torch.tensor(tokens))])
        answer_ids = torch.arange(inputs.next_position_id, inputs.next_position_id + len(tokens))
        position_ids = torch.cat([position_ids, answer_ids.expand(*position_ids.shape[:-1], -1)], dim=-1)
    # Tokens of the answer have planes of zeros.
    deepstack = {} if planes is None else {"planes": torch.nn.functional.pad(planes, (0, 0, 0, len(tokens)))[:, None]}
    logits = model.causal_lm(
        inputs_embeds=embeds[None],
        position_ids=position_ids[None] if position_ids.ndim == 1 else position_ids[:, None],
        **deepstack,
    ).logits[0, -1]
    best, second = penalized(logits, request, tokens).topk(2).values.tolist()
    return best - second


def penalized(logits, request, tokens):
    """[V] logits after the penalties of a request, which follow some tokens of its answer."""
    sampling = request.sampling
    prompt_ids = torch.from_numpy(request.prompt.input_ids)
    ids = torch.cat([prompt_ids, torch.tensor(tokens, dtype=torch.int64)])
    is_prompt = torch.arange(len(ids)) < len(prompt_ids)
    amounts = torch.tensor([sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty])
    return penalize(logits[None], SeenIds(ids[None], is_prompt[None], ~is_prompt[None]), *amounts[:, None])[0]


def cached_tokens():
    """Number of tokens that vLLM has read from its prefix cache."""
    families = [family for family in REGISTRY.collect() if family.name == "vllm:prefix_cache_hits"]
    return sum(s.value for family in families for s in family.samples if s.name.endswith("_total"))
