"""The qwen2_5_vl family: with features of the vision tower over gRPC, it answers like the unsplit model.

A kept token has the position ids of the unpruned prompt.
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil

import grpc
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration

from benchmarks.checkpoints.tiny import qwen2_5_vl
from fovea.modeling.errors import CheckpointError
from fovea.v1 import llm_pb2, tensor_pb2
from fovea.wire import tensors
from llm_service.models import load_model
from llm_service.mrope import mrope_position_ids
from llm_service.prompts import Prompt, VisualTokens
from tests.qwen import (
    IMAGE,
    NEW_TOKENS,
    PROMPTS,
    START,
    VIDEO,
    VISION,
    Visual,
    a_third,
    answer_of,
    inputs_of,
    merged,
)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return qwen2_5_vl.write(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def unsplit(qwen):
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(qwen, dtype=torch.float32).eval()


def patches_of(visuals):
    inputs = {}
    for name, token in (("pixel_values", IMAGE), ("pixel_values_videos", VIDEO)):
        patches = [visual.patches(seed) for seed, visual in enumerate(visuals) if visual.token == token]
        if patches:
            inputs[name] = torch.cat(patches)
    return inputs


def message(fingerprint, visual, features, positions=None):
    return tensor_pb2.VisualTokens(
        features=tensors.to_message(features, tensor_pb2.DTYPE_FLOAT32),
        positions=range(len(features)) if positions is None else positions,
        grid=tensor_pb2.Grid(frames=visual.frames, rows=visual.rows, columns=visual.columns),
        fingerprint=fingerprint,
        kind=tensor_pb2.VISUAL_KIND_IMAGE if visual.seconds is None else tensor_pb2.VISUAL_KIND_VIDEO,
        seconds_per_frame=visual.seconds or 0,
    )


def request_of(fingerprint, ids, visuals, features, kept=None, max_tokens=NEW_TOKENS):
    kept = kept or [None] * len(visuals)
    return llm_pb2.GenerateRequest(
        input_ids=ids,
        visual_tokens=[
            message(fingerprint, visual, tokens if keep is None else tokens[keep], keep)
            for visual, tokens, keep in zip(visuals, features, kept, strict=True)
        ],
        sampling=llm_pb2.SamplingParams(max_tokens=max_tokens),
        first_token_logprobs=True,
    )


@pytest.fixture(scope="module")
def whole(unsplit):
    """For each prompt the features, and greedy tokens and first log-probabilities of transformers' own model."""
    cases = []
    for ids, visuals in PROMPTS:
        inputs = inputs_of(ids, visuals)
        with torch.inference_mode():
            output = unsplit.generate(
                **inputs,
                **patches_of(visuals),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        tokens = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        cases.append((merged(unsplit, visuals), tokens, output.logits[0][0].log_softmax(-1).numpy()))
    return cases


@pytest.mark.parametrize("batch_size", [1, 8])
async def test_answers_are_those_of_the_unsplit_model(whole, qwen, loaded, serving, batch_size):
    model = loaded(qwen, max_batch_size=batch_size, max_batch_delay_ms=1000 if batch_size == 8 else 0)
    requests = [
        request_of(model.limits.fingerprint, ids, visuals, features)
        for (ids, visuals), (features, _, _) in zip(PROMPTS, whole, strict=True)
    ]
    async with serving(model) as client:
        answers = await asyncio.gather(*map(client.ask, requests))
    for (ids, visuals), (_, tokens, logprobs), answer in zip(PROMPTS, whole, answers, strict=True):
        assert np.abs(np.array(answer.done.first_token_logprobs) - logprobs).max() <= 1e-4
        assert list(answer.done.token_ids) == tokens
        assert answer.done.prompt_tokens == len(ids) + sum(math.prod(v.grid) - 1 for v in visuals)


def test_the_answers_compared_are_not_all_alike(whole):
    """Guard: with equal answers the test above would prove nothing."""
    assert len({tuple(tokens) for _, tokens, _ in whole}) == len(whole)
    assert min(len(set(tokens)) for _, tokens, _ in whole) > 4


def whole_prompt(ids, visuals):
    counts = [math.prod(visual.grid) for visual in visuals]
    return Prompt(
        np.array(ids),
        tuple(
            VisualTokens(
                np.zeros((count, 4), np.float32),
                np.arange(count),
                visual.grid,
                is_video=visual.seconds is not None,
                seconds_per_frame=visual.seconds or 0,
            )
            for visual, count in zip(visuals, counts, strict=True)
        ),
    )


@pytest.mark.parametrize(("ids", "visuals"), [case for case in PROMPTS if case[1]])
def test_position_ids_are_those_of_get_rope_index(unsplit, ids, visuals):
    inputs = inputs_of(ids, visuals)
    expected, _ = unsplit.model.get_rope_index(**inputs)
    prompt = whole_prompt(ids, visuals)
    position_ids, next_position_id = mrope_position_ids(prompt, prompt.placeholders((IMAGE, VIDEO)), 2)
    np.testing.assert_array_equal(position_ids, expected[:, 0].numpy())
    assert [next_position_id] * 3 == (expected[:, 0, -1] + 1).tolist()


def test_a_video_of_unknown_speed_has_one_second_between_frames():
    def position_ids_at(seconds):
        prompt = whole_prompt([VIDEO, 9], [Visual(3, 1, 1, seconds)])
        return mrope_position_ids(prompt, prompt.placeholders((IMAGE, VIDEO)), 2)

    np.testing.assert_array_equal(position_ids_at(0.0)[0], position_ids_at(1.0)[0])
    assert position_ids_at(0.0)[0].tolist() == [[0, 2, 4, 1], [0, 0, 0, 1], [0, 0, 0, 1]]
    assert position_ids_at(0.0)[1] == 2


def test_images_without_text_between_them_continue_the_position_ids():
    prompt = whole_prompt([20, IMAGE, IMAGE, 21], [Visual(1, 1, 3), Visual(1, 2, 1)])
    position_ids, next_position_id = mrope_position_ids(prompt, prompt.placeholders((IMAGE, VIDEO)), 2)
    assert position_ids.tolist() == [[0, 1, 1, 1, 4, 4, 6], [0, 1, 1, 1, 4, 5, 6], [0, 1, 2, 3, 4, 4, 6]]
    assert next_position_id == 7


def test_decoding_after_an_image_continues_like_text():
    prompt = whole_prompt([20, VISION, IMAGE], [Visual(1, 2, 5)])
    position_ids, next_position_id = mrope_position_ids(prompt, prompt.placeholders((IMAGE, VIDEO)), 2)
    assert position_ids[:, -1].tolist() == [2, 3, 6]
    assert next_position_id == 7


@pytest.fixture(scope="module")
def pruned(unsplit, whole):
    """For each prompt a third of the visual tokens, and the reference's answer to them."""
    cases = []
    for (ids, visuals), (features, _, _) in zip(PROMPTS, whole, strict=True):
        kept = a_third(visuals)
        tokens, logprobs = answer_of(unsplit, ids, visuals, features, kept)
        cases.append((kept, logprobs[0], tokens))
    return cases


@pytest.mark.parametrize("batch_size", [1, 8])
async def test_pruned_answers_are_those_of_the_unsplit_model_fed_with_the_kept_positions(
    whole, pruned, qwen, loaded, serving, batch_size
):
    model = loaded(qwen, max_batch_size=batch_size, max_batch_delay_ms=1000 if batch_size == 8 else 0)
    requests = [
        request_of(model.limits.fingerprint, ids, visuals, features, kept)
        for (ids, visuals), (features, _, _), (kept, _, _) in zip(PROMPTS, whole, pruned, strict=True)
    ]
    async with serving(model) as client:
        answers = await asyncio.gather(*map(client.ask, requests))
    for answer, (_, logprobs, tokens) in zip(answers, pruned, strict=True):
        assert np.abs(np.array(answer.done.first_token_logprobs) - logprobs).max() <= 1e-4
        assert list(answer.done.token_ids) == tokens


async def test_grid_positions_of_kept_tokens_change_the_answer(whole, qwen, loaded, serving):
    """The same two features at other positions of the same grid give other log-probabilities."""
    model = loaded(qwen)
    (ids, visuals), (features, _, _) = PROMPTS[0], whole[0]
    first = request_of(model.limits.fingerprint, ids, visuals, features, [[0, 53]], max_tokens=1)
    second = request_of(model.limits.fingerprint, ids, visuals, features, [[0, 53]], max_tokens=1)
    second.visual_tokens[0].positions[:] = [0, 1]
    async with serving(model) as client:
        answers = [await client.ask(request) for request in (first, second)]
    logprobs = [np.array(answer.done.first_token_logprobs) for answer in answers]
    assert np.abs(logprobs[0] - logprobs[1]).max() > 1e-2


REFUSED = [
    (lambda tokens: setattr(tokens.grid, "cls_per_frame", 1), "with a grid position only"),
    (lambda tokens: setattr(tokens.grid, "rows", 5000), "reaches past the model's context of 4096"),
    (lambda tokens: setattr(tokens.grid, "columns", 5000), "reaches past the model's context of 4096"),
    (lambda tokens: setattr(tokens.grid, "rows", 100_000), "up to 4096 frames, 65536 rows and columns"),
    (lambda tokens: setattr(tokens.grid, "columns", 2**32 - 1), "up to 4096 frames, 65536 rows and columns"),
    (lambda tokens: setattr(tokens.grid, "frames", 5000), "up to 4096 frames, 65536 rows and columns"),
    (lambda tokens: tokens.positions.__setitem__(0, 54), "outside the grid of 1 x 6 x 9"),
    (lambda tokens: tokens.newline_after.append(3), "no line-end token"),
    (lambda tokens: setattr(tokens, "kind", tensor_pb2.VISUAL_KIND_VIDEO), "0 video tokens"),
]


async def test_invalid_grids_are_refused_and_the_service_goes_on(whole, qwen, loaded, serving):
    model = loaded(qwen)
    (ids, visuals), (features, tokens, _) = PROMPTS[0], whole[0]
    async with serving(model) as client:
        for change, text in REFUSED:
            request = request_of(model.limits.fingerprint, ids, visuals, features)
            change(request.visual_tokens[0])
            with pytest.raises(grpc.aio.AioRpcError, match=text) as refusal:
                await client.ask(request)
            assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        answer = await client.ask(request_of(model.limits.fingerprint, ids, visuals, features))
    assert list(answer.done.token_ids) == tokens


async def test_an_llm_pruner_is_refused(whole, qwen, loaded, serving):
    model = loaded(qwen)
    (ids, visuals), (features, _, _) = PROMPTS[0], whole[0]
    request = request_of(model.limits.fingerprint, ids, visuals, features)
    request.llm_pruner.name = "fastv"
    request.llm_pruner.keep_tokens = 5
    async with serving(model) as client:
        info = await client.stub.GetModelInfo(llm_pb2.GetLLMInfoRequest())
        assert list(info.llm_pruners) == []
        assert (info.image_token_id, info.video_token_id, info.visual_hidden_size) == (IMAGE, VIDEO, 128)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await client.ask(request)
    assert refusal.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


def load(checkpoint, **options):
    return load_model(
        checkpoint, **{"device": torch.device("cpu"), "dtype": "auto", "attn_implementation": "sdpa", **options}
    )


@torch.inference_mode()
def last_logits(model):
    prompt = whole_prompt([START, 20, 30, 40], [])
    inputs = model.embed(prompt)
    return model.causal_lm(inputs_embeds=inputs.inputs_embeds[None], position_ids=inputs.position_ids[:, None]).logits[
        0, -1
    ]


@pytest.fixture
def copy(qwen, tmp_path):
    return shutil.copytree(qwen, tmp_path / "copy")


def rewrite(checkpoint, change):
    path = checkpoint / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["in_memory", "nested"])
def test_every_key_layout_and_stored_dtype_is_read(copy, qwen, unsplit, layout, dtype):
    def renamed(name):
        if layout == "in_memory":
            return name
        name = name.replace("model.language_model.", "language_model.model.")
        return name.replace("lm_head.", "language_model.lm_head.")

    rewrite(copy, lambda _: {renamed(name): t.to(dtype).clone() for name, t in unsplit.state_dict().items()})
    model = load(copy)
    assert {parameter.dtype for parameter in model.causal_lm.parameters()} == {torch.float32}
    assert not any("visual" in name for name, _ in model.causal_lm.named_parameters())
    exact = dtype == torch.float32
    torch.testing.assert_close(last_logits(model), last_logits(load(qwen)), atol=0 if exact else 0.5, rtol=0)


def test_the_vision_tower_is_not_read(copy, qwen):
    """Its shard is not a safetensors file, and loading still works."""
    own = {name: t for name, t in load_file(copy / "model.safetensors").items() if not name.startswith("visual.")}
    weight_map = {
        name: f"model-0000{1 if name in own else 2}-of-00002.safetensors"
        for name in load_file(copy / "model.safetensors")
    }
    (copy / "model.safetensors").unlink()
    save_file(own, copy / "model-00001-of-00002.safetensors")
    (copy / "model-00002-of-00002.safetensors").write_bytes(b"not a tensor in sight")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(last_logits(load(copy)), last_logits(load(qwen)))


@pytest.mark.parametrize("level", ["root", "text_config"])
def test_tied_embeddings_need_no_head(copy, level):
    config = json.loads((copy / "config.json").read_text())
    (config if level == "root" else config["text_config"])["tie_word_embeddings"] = True
    if level == "text_config":
        del config["tie_word_embeddings"]
    (copy / "config.json").write_text(json.dumps(config))
    rewrite(copy, lambda tensors: {name: t for name, t in tensors.items() if "lm_head" not in name})
    model = load(copy)
    assert torch.equal(model.causal_lm.lm_head.weight, model.causal_lm.get_input_embeddings().weight)


def test_a_missing_head_is_named(copy):
    rewrite(copy, lambda tensors: {name: t for name, t in tensors.items() if "lm_head" not in name})
    with pytest.raises(CheckpointError, match=r"lacks 1 of .* 'lm_head.weight'"):
        load(copy)


def test_the_flat_config_of_the_hub_is_read(copy, qwen):
    """Checkpoints from before transformers 5 have the language model's values at the root."""
    config = json.loads((copy / "config.json").read_text())
    text = config.pop("text_config")
    text.pop("model_type")
    rope = text.pop("rope_parameters")
    flat = text | config | {"rope_theta": rope["rope_theta"]}
    flat["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    (copy / "config.json").write_text(json.dumps(flat))
    assert torch.equal(last_logits(load(copy)), last_logits(load(qwen)))
