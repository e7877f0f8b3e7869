"""`cross_attention` over real gRPC, compared with the attention maps of an eager model of transformers."""

from __future__ import annotations

import grpc.aio
import numpy as np
import pytest
import torch
from google.protobuf import struct_pb2

from fovea.errors import InvalidRequest, from_rpc_error
from fovea.v1 import llm_pb2
from llm_service.models import load_model
from llm_service.prompts import Prompt, VisualTokens

BOS, IMAGE = 1, 4
PROMPT = [BOS, 60, IMAGE, 70, 71]
NUM_VISUAL = 16


@pytest.fixture
async def client(loaded, serving, deep_checkpoint):
    async with serving(loaded(deep_checkpoint, max_batch_delay_ms=0)) as client:
        yield client


@pytest.fixture
def features():
    return np.random.default_rng(0).standard_normal((NUM_VISUAL, 32), dtype=np.float32)


@pytest.fixture
def generate(client, visual_tokens, features):
    def make(cross_attention=None, *, input_ids=PROMPT, max_tokens=4, **more):
        return llm_pb2.GenerateRequest(
            input_ids=input_ids,
            visual_tokens=[visual_tokens(client.model.limits.fingerprint, features)] * input_ids.count(IMAGE),
            sampling=llm_pb2.SamplingParams(max_tokens=max_tokens),
            cross_attention=cross_attention,
            **more,
        )

    return make


def fastv(layer, keep):
    params = struct_pb2.Struct()
    params.update({"layer": layer})
    return llm_pb2.LlmPruner(name="fastv", params=params, keep_tokens=keep)


def expected(checkpoint, features, layer):
    """Attention of the last prompt token in the full attention map, mean over the heads."""
    model = load_model(checkpoint, device=torch.device("cpu"), dtype="float32", attn_implementation="eager")
    prompt = Prompt(np.array(PROMPT), (VisualTokens(features, np.arange(NUM_VISUAL), (1, 4, 4)),))
    with torch.inference_mode():
        inputs = model.embed(prompt)
        maps = model.causal_lm(inputs_embeds=inputs.inputs_embeds[None], output_attentions=True).attentions
    return maps[layer][0, :, -1, 2 : 2 + NUM_VISUAL].mean(dim=0).numpy()


@pytest.mark.parametrize("layer", [0, 1, 11])
async def test_it_equals_the_models_own_attention_map(client, generate, deep_checkpoint, features, layer):
    done = (await client.ask(generate(llm_pb2.CrossAttention(layer=layer)))).done
    np.testing.assert_allclose(done.cross_attention, expected(deep_checkpoint, features, layer), rtol=1e-4, atol=1e-6)


async def test_the_default_layer_is_the_second_of_32_scaled(client, generate, deep_checkpoint, features):
    done = (await client.ask(generate(llm_pb2.CrossAttention()))).done
    np.testing.assert_allclose(done.cross_attention, expected(deep_checkpoint, features, 1), rtol=1e-4, atol=1e-6)


async def test_reported_attention_changes_no_answer_and_is_absent_if_not_requested(client, generate):
    plain, observed = [await client.ask(generate(requested)) for requested in (None, llm_pb2.CrossAttention())]
    assert observed.done.token_ids == plain.done.token_ids
    assert len(observed.done.cross_attention) == NUM_VISUAL
    assert list(plain.done.cross_attention) == []
    assert list(observed.done.visual_tokens_by_layer) == []


async def test_dropped_tokens_have_no_attention(client, generate):
    """FastV drops at the input of layer 5 by the attention of layer 4, whose best tokens are therefore left there."""
    before, after = [
        np.array(
            (
                await client.ask(generate(llm_pb2.CrossAttention(layer=layer), llm_pruner=fastv(13, 5)))
            ).done.cross_attention
        )
        for layer in (4, 5)
    ]
    assert (before > 0).all()
    assert set(np.flatnonzero(after)) == set(np.argsort(before)[-5:])


async def test_two_images_give_one_list(client, generate):
    request = generate(llm_pb2.CrossAttention(), input_ids=[BOS, IMAGE, 70, IMAGE, 71])
    assert len((await client.ask(request)).done.cross_attention) == 2 * NUM_VISUAL


async def test_a_visual_token_at_the_end_of_the_prompt_has_no_attention(client, generate):
    attention = (await client.ask(generate(llm_pb2.CrossAttention(), input_ids=[BOS, 70, IMAGE]))).done.cross_attention
    assert len(attention) == NUM_VISUAL
    assert attention[-1] == 0 < min(attention[:-1])


@pytest.mark.parametrize(
    ("requested", "input_ids", "param", "text"),
    [
        (llm_pb2.CrossAttention(layer=12), PROMPT, "cross_attention.layer", "0 to 11 are accepted"),
        (llm_pb2.CrossAttention(), [BOS, 70], "cross_attention", "needs visual tokens"),
    ],
)
async def test_invalid_requests_are_refused(client, generate, requested, input_ids, param, text):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.ask(generate(requested, input_ids=input_ids))
    error = from_rpc_error(caught.value, "LLM service")
    assert isinstance(error, InvalidRequest)
    assert error.param == param
    assert text in error.message


async def test_a_model_that_cannot_run_layer_by_layer_refuses_the_field(
    loaded, serving, mistral_checkpoint, visual_tokens
):
    async with serving(loaded(mistral_checkpoint)) as client:
        request = llm_pb2.GenerateRequest(
            input_ids=[BOS, IMAGE, 70],
            visual_tokens=[visual_tokens(client.model.limits.fingerprint)],
            sampling=llm_pb2.SamplingParams(max_tokens=2),
            cross_attention=llm_pb2.CrossAttention(),
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.ask(request)
    assert "leave cross_attention out" in str(caught.value.details())
