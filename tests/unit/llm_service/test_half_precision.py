"""Answers of the shipped model in half precision beside those in float32, on the lab's questions.

Two answers may differ where the two best logits in float32 are nearly equal. In float16 these are logits within 1e-2 of
each other. bfloat16 has eight bits: between 8 and 16, where the best logits of this model lie, its numbers are 1/16
apart. Its bound is therefore relative: 1e-2 of the distance from the lowest to the highest logit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.accuracy.evaluation import SPLITS, shipped_system, with_images
from benchmarks.accuracy.system import Method
from fovea.checkpoints.shipped import shipped_checkpoint
from gateway.tokenization.tokenizers import PromptTokenizer
from lab.questions import evaluation_questions
from llm_service.engine.base import Done, GenerationRequest
from llm_service.prompts import Prompt, VisualTokens
from llm_service.sampling import SamplingParams
from llm_service.server.served_model import ServedModel

pytestmark = pytest.mark.slow

SCENES = 12  # images of each split; 182 questions
NEARLY_EQUAL = 1e-2
MAX_TOKENS = 96
Answer = list[int]


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    """The questions with the visual tokens that DeSAP keeps at the smallest budget of its paper."""
    questions = [evaluation_questions(split, 0, SCENES) for split in SPLITS]
    asked = [image_question for split in questions for image_question in with_images(split)]
    system = shipped_system()
    try:
        encoded = system.encode(asked, Method("desap", 0.111))
    finally:
        system.close()
    tokenizer = PromptTokenizer(shipped_checkpoint("llava"))
    prompts = []
    for question, image in zip(asked, encoded, strict=True):
        input_ids = np.array(tokenizer.encode(question.question, num_images=1), dtype=np.int64)
        grid = (1, image.layout.rows, image.layout.columns)
        prompts.append(Prompt(input_ids, (VisualTokens(image.features.copy(), image.positions.copy(), grid),)))
    return prompts


@pytest.fixture
def in_dtype(loaded: Callable[..., ServedModel], prompts: list[Prompt]) -> Callable[[str], Any]:
    """The engine of the shipped model in a given dtype."""

    def make(dtype: str) -> Any:
        llava = shipped_checkpoint("llava")
        return loaded(llava, dtype=dtype, max_model_len=256, max_batch_size=32, max_queue_size=len(prompts)).engine

    return make


async def generate(engine: Any, prompts: Sequence[Prompt], *, max_tokens: int, logprobs: bool = False) -> list[Done]:
    """The last events of greedy answers."""
    generations = [
        engine.submit(GenerationRequest(prompt, SamplingParams(max_tokens), time.monotonic() + 300, logprobs))
        for prompt in prompts
    ]
    while engine.num_waiting or engine.num_running:
        engine.step()
    return [event for generation in generations async for event in generation if isinstance(event, Done)]


async def answers(engine: Any, prompts: Sequence[Prompt]) -> list[Answer]:
    return [done.token_ids for done in await generate(engine, prompts, max_tokens=MAX_TOKENS)]


def same_tokens(one: Answer, other: Answer) -> int:
    """Number of tokens before the first in which two answers differ."""
    return next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


async def logits_of_next(engine: Any, prompt: Prompt, answer: Answer) -> torch.Tensor:
    """[V] logits after the first tokens of an answer, less a constant, in descending order."""
    continued = Prompt(np.concatenate([prompt.input_ids, np.array(answer, dtype=np.int64)]), prompt.visual_tokens)
    (done,) = await generate(engine, [continued], max_tokens=1, logprobs=True)
    return torch.tensor(done.first_token_logprobs).sort(descending=True).values


def one_logit(_: torch.Tensor) -> float:
    return 1.0


def spread(logits: torch.Tensor) -> float:
    """Distance from the lowest to the highest logit."""
    return float(logits[0] - logits[-1])


@pytest.mark.parametrize(("dtype", "unit"), [("float16", one_logit), ("bfloat16", spread)])
async def test_answers_are_those_of_float32_but_where_logits_are_nearly_equal(
    in_dtype: Callable[[str], Any], prompts: list[Prompt], dtype: str, unit: Callable[[torch.Tensor], float]
) -> None:
    full = in_dtype("float32")
    expected, got = await answers(full, prompts), await answers(in_dtype(dtype), prompts)
    wrong = []
    for prompt, one, other in zip(prompts, expected, got, strict=True):
        if one != other:
            number = same_tokens(one, other)
            logits = await logits_of_next(full, prompt, one[:number])
            gap = float(logits[0] - logits[1])
            if gap > NEARLY_EQUAL * unit(logits):
                wrong.append((prompt.input_ids.tolist(), one, other, gap))
    assert not wrong
