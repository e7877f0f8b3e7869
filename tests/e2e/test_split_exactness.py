"""Three services give the answers of the unsplit model: same checkpoint, nothing pruned, float32."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.processes.stack import Stack
from fovea.v1 import encoder_pb2, encoder_pb2_grpc, llm_pb2, llm_pb2_grpc, tensor_pb2
from lab.questions import Question, evaluation_questions
from tests.e2e.conftest import Client, png

MAX_TOKENS = 32
NUM_QUESTIONS = 200


class Unsplit:
    """LlavaForConditionalGeneration with its own processor."""

    def __init__(self) -> None:
        path = shipped_checkpoint("llava")
        self.processor: Any = AutoProcessor.from_pretrained(path)
        self.model: Any = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()

    def inputs(self, questions: list[Question]) -> Any:
        chats = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.text}]}]
            for question in questions
        ]
        texts = [self.processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
        images = [Image.open(io.BytesIO(png(question))) for question in questions]
        self.processor.tokenizer.padding_side = "left"
        return self.processor(text=texts, images=images, padding=True, return_tensors="pt")

    @torch.inference_mode()
    def first_token_logprobs(self, question: Question) -> np.ndarray:
        logits = self.model(**self.inputs([question])).logits[0, -1]
        return torch.log_softmax(logits.double(), dim=-1).numpy()

    @torch.inference_mode()
    def answers(self, questions: list[Question]) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(questions), 25):
            inputs = self.inputs(questions[start : start + 25])
            made = self.model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
            texts += self.processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return texts


@pytest.fixture(scope="module")
def unsplit() -> Iterator[Unsplit]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Unsplit()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    both = [evaluation_questions(split, 4242, 14) for split in ("easy", "crowded")]  # type: ignore[arg-type]
    chosen = [question for pair in zip(*both, strict=False) for question in pair][:NUM_QUESTIONS]
    assert len(chosen) == NUM_QUESTIONS
    assert len({question.group for question in chosen}) == 8
    return chosen


def split_logprobs(stack: Stack, unsplit: Unsplit, question: Question) -> np.ndarray:
    """The first token's log-probabilities over the two services' gRPC, called as the gateway calls them."""
    inputs = unsplit.inputs([question])
    image_id = unsplit.model.config.image_token_id
    ids = inputs["input_ids"][0].tolist()
    first = ids.index(image_id)
    prompt = [*ids[: first + 1], *(i for i in ids[first:] if i != image_id)]
    with grpc.insecure_channel(stack.encoder_address) as encoder, grpc.insecure_channel(stack.llm_address) as llm:
        encoded = encoder_pb2_grpc.EncoderServiceStub(encoder).Encode(
            encoder_pb2.EncodeRequest(images=[png(question)], pruner="none", wire_dtype=tensor_pb2.DTYPE_FLOAT32),
            timeout=60,
        )
        request = llm_pb2.GenerateRequest(
            input_ids=prompt,
            visual_tokens=encoded.visual_tokens,
            sampling=llm_pb2.SamplingParams(max_tokens=1),
            first_token_logprobs=True,
        )
        *_, last = llm_pb2_grpc.LLMServiceStub(llm).Generate(request, timeout=60)
    return np.array(last.done.first_token_logprobs)


def test_first_token_log_probabilities_are_those_of_the_unsplit_model(
    stack: Stack, unsplit: Unsplit, questions: list[Question]
) -> None:
    worst = 0.0
    for question in questions[:40]:
        expected = unsplit.first_token_logprobs(question)
        got = split_logprobs(stack, unsplit, question)
        assert got.shape == expected.shape
        worst = max(worst, float(np.abs(got - expected).max()))
    assert worst <= 1e-4


def test_greedy_answers_are_identical_on_200_questions(
    client: Client, unsplit: Unsplit, questions: list[Question]
) -> None:
    expected = unsplit.answers(questions)

    def ask(question: Question) -> str:
        answer = client.ask(png(question), question.text, pruner="none", max_tokens=MAX_TOKENS, cache="bypass")
        assert answer["usage"]["visual_tokens_kept"] == 144
        text: str = answer["answer"]
        return text

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(ask, questions))
    different = [(q.text, g, e) for q, g, e in zip(questions, got, expected, strict=True) if g.strip() != e.strip()]
    assert not different
