"""`cross_attention` over real gRPC, against the maps of an eager model of transformers."""

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
ROWS = 16


@pytest.fixture
async def client(loaded, serving, deep_checkpoint):
    async with serving(loaded(deep_checkpoint, max_batch_delay_ms=0)) as made:
        yield made


@pytest.fixture
def features():
    return np.random.default_rng(0).standard_normal((ROWS, 32), dtype=np.float32)


@pytest.fixture
def generate(client, picture, features):
    def make(cross_attention=None, *, input_ids=PROMPT, max_tokens=4, **more):
        return llm_pb2.GenerateRequest(
            input_ids=input_ids,
            visual_tokens=[picture(client.model.limits.fingerprint, features)] * input_ids.count(IMAGE),
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
    """The last prompt token's row of the whole attention map, mean over the heads."""
    model = load_model(checkpoint, device=torch.device("cpu"), dtype="float32", attn_implementation="eager")
    prompt = Prompt(np.array(PROMPT), (VisualTokens(features, np.arange(ROWS), (1, 4, 4)),))
    with torch.inference_mode():
        inputs = model.embed(prompt)
        maps = model.causal_lm(inputs_embeds=inputs.inputs_embeds[None], output_attentions=True).attentions
    return maps[layer][0, :, -1, 2 : 2 + ROWS].mean(dim=0).numpy()


@pytest.mark.parametrize("layer", [0, 1, 11])
async def test_it_is_the_row_of_the_models_own_map(client, generate, deep_checkpoint, features, layer):
    done = (await client.ask(generate(llm_pb2.CrossAttention(layer=layer)))).done
    np.testing.assert_allclose(done.cross_attention, expected(deep_checkpoint, features, layer), rtol=1e-4, atol=1e-6)


async def test_left_out_the_layer_is_the_second_of_32_scaled(client, generate, deep_checkpoint, features):
    done = (await client.ask(generate(llm_pb2.CrossAttention()))).done
    np.testing.assert_allclose(done.cross_attention, expected(deep_checkpoint, features, 1), rtol=1e-4, atol=1e-6)


async def test_looking_changes_no_answer_and_costs_those_nothing_who_do_not_ask(client, generate):
    plain, looked_at = [await client.ask(generate(asked)) for asked in (None, llm_pb2.CrossAttention())]
    assert looked_at.done.token_ids == plain.done.token_ids
    assert len(looked_at.done.cross_attention) == ROWS
    assert list(plain.done.cross_attention) == []
    assert list(looked_at.done.visual_tokens_by_layer) == []


async def test_tokens_that_a_pruner_dropped_before_get_nothing(client, generate):
    """FastV drops at the input of layer 5 by the row of layer 4: what is left there are the best of that row."""
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


async def test_two_pictures_make_one_row(client, generate):
    request = generate(llm_pb2.CrossAttention(), input_ids=[BOS, IMAGE, 70, IMAGE, 71])
    assert len((await client.ask(request)).done.cross_attention) == 2 * ROWS


async def test_a_visual_token_at_the_very_end_counts_for_nothing(client, generate):
    attention = (await client.ask(generate(llm_pb2.CrossAttention(), input_ids=[BOS, 70, IMAGE]))).done.cross_attention
    assert len(attention) == ROWS
    assert attention[-1] == 0 < min(attention[:-1])


@pytest.mark.parametrize(
    ("asked", "input_ids", "param", "text"),
    [
        (llm_pb2.CrossAttention(layer=12), PROMPT, "cross_attention.layer", "0 to 11 are accepted"),
        (llm_pb2.CrossAttention(), [BOS, 70], "cross_attention", "needs visual tokens"),
    ],
)
async def test_what_cannot_be_looked_at_is_refused(client, generate, asked, input_ids, param, text):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.ask(generate(asked, input_ids=input_ids))
    error = from_rpc_error(caught.value, "LLM service")
    assert isinstance(error, InvalidRequest)
    assert error.param == param
    assert text in error.message


async def test_a_model_that_cannot_be_taken_apart_says_so(loaded, serving, mistral_checkpoint, picture):
    async with serving(loaded(mistral_checkpoint)) as client:
        request = llm_pb2.GenerateRequest(
            input_ids=[BOS, IMAGE, 70],
            visual_tokens=[picture(client.model.limits.fingerprint)],
            sampling=llm_pb2.SamplingParams(max_tokens=2),
            cross_attention=llm_pb2.CrossAttention(),
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.ask(request)
    assert "leave cross_attention out" in str(caught.value.details())
