"""Language model and projector, with features of the vision tower over gRPC, answer like the unsplit model."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch

from fovea.v1 import llm_pb2

BOS, IMAGE = 1, 4
PROMPTS = [
    [BOS, IMAGE, 60, 61, 62],
    [BOS, 90, 91, 92, 93, 94, IMAGE, 70, 71],
    [BOS, 120, IMAGE, 33, IMAGE, 44, 45],
    [BOS, 200, 201, 202],
]
NEW_TOKENS = 32


def pixel_values(count, seed):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, 3, 56, 56), dtype=np.float32))


@torch.inference_mode()
def unsplit(llava, ids, pixels):
    """Greedy tokens and first-token log-probabilities of transformers' own model."""
    expanded = [i for token in ids for i in ([IMAGE] * 16 if token == IMAGE else [token])]
    output = llava.generate(
        input_ids=torch.tensor([expanded]),
        attention_mask=torch.ones(1, len(expanded), dtype=torch.long),
        **({"pixel_values": pixels} if len(pixels) else {}),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=3,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return output.sequences[0, len(expanded) :].tolist(), output.logits[0][0].log_softmax(-1).numpy()


@torch.inference_mode()
def tower_features(llava, pixels):
    """Input of the projector: layer -2 of the vision tower without CLS, [images, 16, 32]."""
    if not len(pixels):
        return np.empty((0, 16, 32), np.float32)
    return llava.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:].numpy()


@pytest.fixture(scope="module")
def cases(llava):
    cases = []
    for seed, ids in enumerate(PROMPTS):
        pixels = pixel_values(ids.count(IMAGE), seed)
        cases.append((ids, tower_features(llava, pixels), *unsplit(llava, ids, pixels)))
    return cases


@pytest.mark.parametrize("batch_size", [1, 3, 8])
async def test_tokens_and_logprobs_equal(cases, loaded, serving, visual_tokens, batch_size):
    model = loaded(max_batch_size=batch_size, max_batch_delay_ms=1000 if batch_size == 8 else 0)
    fingerprint = model.limits.fingerprint
    requests = [
        llm_pb2.GenerateRequest(
            input_ids=ids,
            visual_tokens=[visual_tokens(fingerprint, image_features) for image_features in features],
            sampling=llm_pb2.SamplingParams(max_tokens=NEW_TOKENS),
            first_token_logprobs=True,
        )
        for ids, features, _, _ in cases
    ]
    async with serving(model) as client:
        answers = await asyncio.gather(*(client.ask(request) for request in requests * (2 if batch_size == 8 else 1)))
    for (ids, _, tokens, logprobs), answer in zip(cases * 2, answers, strict=False):
        assert list(answer.done.token_ids) == tokens
        assert np.abs(np.array(answer.done.first_token_logprobs) - logprobs).max() <= 1e-4
        assert answer.done.prompt_tokens == len(ids) + 15 * ids.count(IMAGE)
        assert answer.done.finish_reason == "length"
        assert answer.done.completion_tokens == NEW_TOKENS


async def test_kept_tokens_take_consecutive_position_ids(llava, loaded, serving, visual_tokens):
    model = loaded()
    pixels = pixel_values(1, seed=7)
    kept = [1, 6, 7, 13]
    features = tower_features(llava, pixels)[0][kept]
    ids = [BOS, IMAGE, 60, 61]
    with torch.inference_mode():
        text = llava.get_input_embeddings()(torch.tensor(ids))
        projected = llava.model.multi_modal_projector(torch.from_numpy(features))
        embeds = torch.cat([text[:1], projected, text[2:]])[None]
        expected = llava.lm_head(llava.model.language_model(inputs_embeds=embeds).last_hidden_state[0, -1])
    message = visual_tokens(model.limits.fingerprint, features)
    message.positions[:] = kept
    request = llm_pb2.GenerateRequest(
        input_ids=ids,
        visual_tokens=[message],
        sampling=llm_pb2.SamplingParams(max_tokens=1),
        first_token_logprobs=True,
    )
    async with serving(model) as client:
        answer = await client.ask(request)
    assert np.abs(np.array(answer.done.first_token_logprobs) - expected.log_softmax(-1).numpy()).max() <= 1e-4
    assert answer.done.prompt_tokens == 7
