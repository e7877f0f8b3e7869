"""Defaults from generation_config.json: which ones apply in which mode, and that answers are those of `generate`."""

from __future__ import annotations

import asyncio
import json

import grpc.aio
import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from fovea.errors import InvalidRequest, from_rpc_error
from fovea.modeling.errors import CheckpointError
from fovea.v1 import llm_pb2
from llm_service.models.generation_config import read_generation_defaults
from llm_service.sampling import TokenSampling

BOS, IMAGE, EOS = 1, 4, 2
NEW_TOKENS = 24
# As of Qwen2.5-VL, with a repetition penalty that is easily seen.
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.3}
PROMPTS = [
    [BOS, *((IMAGE,) * (seed % 3)), *np.random.default_rng(seed).integers(8, 280, size=4 + seed).tolist()]
    for seed in range(12)
]


def with_generation_config(checkpoint, **content):
    (checkpoint / "generation_config.json").write_text(json.dumps(content))
    return checkpoint


def read(checkpoint, mode, config_eos_token_ids=frozenset({EOS})):
    return read_generation_defaults(checkpoint, config_eos_token_ids, mode)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("none", TokenSampling()),
        ("greedy", TokenSampling(repetition_penalty=1.3)),
        ("full", TokenSampling(temperature=0.7, top_p=0.9, top_k=20, min_p=0.05, repetition_penalty=1.3)),
    ],
)
def test_each_mode_takes_its_fields(tmp_path, mode, expected):
    assert read(with_generation_config(tmp_path, **SAMPLING), mode).sampling == expected


@pytest.mark.parametrize("do_sample", [{}, {"do_sample": False}, {"do_sample": None}])
def test_sampling_fields_do_not_apply_without_do_sample(tmp_path, do_sample):
    content = {name: value for name, value in SAMPLING.items() if name != "do_sample"} | do_sample
    assert read(with_generation_config(tmp_path, **content), "full").sampling == TokenSampling(repetition_penalty=1.3)


def test_the_librarys_own_defaults_do_not_apply(tmp_path):
    """transformers itself would sample from the 50 most probable tokens."""
    content = {"do_sample": True, "top_p": None, "transformers_version": "4.37.0", "max_new_tokens": 3}
    assert read(with_generation_config(tmp_path, **content), "full").sampling == TokenSampling(temperature=1)


@pytest.mark.parametrize("mode", ["greedy", "full", "none"])
def test_a_checkpoint_without_the_file_has_no_defaults(tmp_path, mode):
    defaults = read(tmp_path, mode)
    assert (defaults.sampling, defaults.eos_token_ids) == (TokenSampling(), {EOS})


@pytest.mark.parametrize(
    ("content", "config", "mode", "expected"),
    [
        ({"eos_token_id": [2, 77]}, {5}, "greedy", {2, 77}),
        ({"eos_token_id": 77}, {5}, "full", {77}),
        ({"eos_token_id": [2, 77]}, {5}, "none", {5}),
        ({"eos_token_id": [2, 77]}, set(), "none", {2, 77}),
        ({"eos_token_id": None}, {5}, "greedy", {5}),
    ],
)
def test_end_tokens_are_the_files_except_in_mode_none(tmp_path, content, config, mode, expected):
    checkpoint = with_generation_config(tmp_path, **content)
    assert read(checkpoint, mode, frozenset(config)).eos_token_ids == expected


@pytest.mark.parametrize("mode", ["greedy", "full", "none"])
def test_a_checkpoint_without_end_tokens_is_refused(tmp_path, mode):
    with pytest.raises(CheckpointError, match="eos_token_id"):
        read(tmp_path, mode, frozenset())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("repetition_penalty", 0, "repetition_penalty must be 0.01 to 10, not 0"),
        ("repetition_penalty", "1.05", "repetition_penalty must be a number, not '1.05'"),
        ("repetition_penalty", float("nan"), "repetition_penalty must be 0.01 to 10, not nan"),
        ("temperature", 3, "temperature must be 0 to 2, not 3"),
        ("temperature", True, "temperature must be a number, not True"),
        ("top_p", 0, "top_p must be above 0"),
        ("top_k", 2.5, "top_k must be a whole number, not 2.5"),
        ("top_k", -1, "top_k must be 0"),
        ("min_p", 2, "min_p must be 0 to 1"),
        ("eos_token_id", "2", "eos_token_id must be a token id or a list"),
        ("eos_token_id", [2, -1], "eos_token_id must be a token id or a list"),
    ],
)
def test_a_value_that_is_not_accepted_is_an_error_at_start(tmp_path, field, value, message):
    checkpoint = with_generation_config(tmp_path, **(SAMPLING | {field: value}))
    with pytest.raises(CheckpointError, match=f"generation_config.json: {message}"):
        read(checkpoint, "full")
    assert read(checkpoint, "none").sampling == TokenSampling()


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_file_that_is_no_json_object_is_an_error_at_start(tmp_path, text):
    (tmp_path / "generation_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        read(tmp_path, "greedy")


@torch.inference_mode()
def generated(unsplit, ids, pixels, **options):
    """Greedy ids of transformers' `generate`, called in the normal way."""
    expanded = [i for token in ids for i in ([IMAGE] * 16 if token == IMAGE else [token])]
    output = unsplit.generate(
        input_ids=torch.tensor([expanded]),
        attention_mask=torch.ones(1, len(expanded), dtype=torch.long),
        **({"pixel_values": pixels} if len(pixels) else {}),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=3,
        **options,
    )
    return output[0, len(expanded) :].tolist()


@torch.inference_mode()
def requests(llava, fingerprint, visual_tokens, **sampling):
    """Requests for all prompts, and the pixels of each."""
    made = []
    for seed, ids in enumerate(PROMPTS):
        shape = (ids.count(IMAGE), 3, 56, 56)
        pixels = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))
        features = []
        if len(pixels):
            features = llava.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:].numpy()
        request = llm_pb2.GenerateRequest(
            input_ids=ids,
            visual_tokens=[visual_tokens(fingerprint, one) for one in features],
            sampling=llm_pb2.SamplingParams(max_tokens=NEW_TOKENS, **sampling),
        )
        made.append((request, pixels))
    return made


@pytest.mark.parametrize("penalty", [1.05, 1.3])
async def test_greedy_answers_are_those_of_generate(
    llava, checkpoint, copy_of, loaded, serving, visual_tokens, penalty
):
    copy = with_generation_config(copy_of(checkpoint), **(SAMPLING | {"repetition_penalty": penalty}))
    unsplit = LlavaForConditionalGeneration.from_pretrained(copy).eval()
    async with serving(loaded(copy, max_batch_delay_ms=0)) as client:
        asked = requests(llava, client.model.limits.fingerprint, visual_tokens)
        answers = await asyncio.gather(*(client.ask(request) for request, _ in asked))
        prompts = [(request.input_ids, pixels) for request, pixels in asked]
    expected = [generated(unsplit, ids, pixels) for ids, pixels in prompts]
    assert [list(answer.done.token_ids) for answer in answers] == expected
    unpenalized = [generated(unsplit, ids, pixels, repetition_penalty=1.0) for ids, pixels in prompts]
    assert expected != unpenalized


async def test_mode_none_gives_the_answers_without_the_file(llava, checkpoint, copy_of, loaded, serving, visual_tokens):
    copy = with_generation_config(copy_of(checkpoint), **SAMPLING)
    async with serving(loaded(copy, generation_defaults="none")) as client:
        asked = requests(llava, client.model.limits.fingerprint, visual_tokens)
        answers = await asyncio.gather(*(client.ask(request) for request, _ in asked))
    expected = [generated(llava, request.input_ids, pixels) for request, pixels in asked]
    assert [list(answer.done.token_ids) for answer in answers] == expected


async def test_a_request_overrides_each_default(checkpoint, copy_of, loaded, serving):
    """In mode full an answer is sampled; a request can turn everything off, and only what it sets."""
    copy = with_generation_config(copy_of(checkpoint), **SAMPLING)

    def request(**sampling):
        sampling = {"max_tokens": NEW_TOKENS, "seed": 5, **sampling}
        return llm_pb2.GenerateRequest(input_ids=[BOS, 60, 61], sampling=llm_pb2.SamplingParams(**sampling))

    neutral = {"temperature": 0.0, "repetition_penalty": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
    full = {name: value for name, value in SAMPLING.items() if name != "do_sample"}
    async with serving(loaded(copy, generation_defaults="full")) as client:
        unset, explicit, legacy, off, greedy = await asyncio.gather(
            *map(
                client.ask,
                [
                    request(),
                    request(**full),
                    request(**full | {"top_p": 0}),
                    request(**neutral),
                    request(**neutral | {"repetition_penalty": 1.3}),
                ],
            )
        )
    async with serving(loaded(checkpoint)) as client:
        plain = await client.ask(request(temperature=0))
    assert unset.done.token_ids == explicit.done.token_ids == legacy.done.token_ids
    assert off.done.token_ids == plain.done.token_ids
    assert len({tuple(a.done.token_ids) for a in (unset, off, greedy)}) == 3


@pytest.mark.parametrize("layer_by_layer", [False, True])
async def test_log_probabilities_are_those_before_penalties(
    checkpoint, copy_of, loaded, serving, visual_tokens, layer_by_layer
):
    """Also with a prefill layer by layer, whose tokens are penalized alike."""
    copy = with_generation_config(copy_of(checkpoint), repetition_penalty=1.3)
    async with serving(loaded(copy)) as client:
        request = llm_pb2.GenerateRequest(
            input_ids=[BOS, IMAGE, 60, 61],
            visual_tokens=[visual_tokens(client.model.limits.fingerprint)],
            sampling=llm_pb2.SamplingParams(max_tokens=NEW_TOKENS),
            first_token_logprobs=True,
        )
        penalized = await client.ask(request)
        if layer_by_layer:
            request.cross_attention.layer = 0
        other = await client.ask(request)
        request.sampling.repetition_penalty = 1
        plain = await client.ask(request)
    np.testing.assert_allclose(plain.done.first_token_logprobs, penalized.done.first_token_logprobs, atol=1e-5)
    assert other.done.token_ids == penalized.done.token_ids != plain.done.token_ids


async def test_a_seed_gives_the_same_text_in_any_batch(loaded, serving):
    def request(**sampling):
        sampling = {"max_tokens": NEW_TOKENS, "temperature": 1.2, **sampling}
        return llm_pb2.GenerateRequest(input_ids=[BOS, 60, 61], sampling=llm_pb2.SamplingParams(**sampling))

    seeded = request(
        seed=3, repetition_penalty=1.2, frequency_penalty=0.5, presence_penalty=-0.5, top_k=40, min_p=0.01, top_p=0.9
    )
    others = [request(seed=4), request(temperature=0), request(frequency_penalty=2.0), request(top_k=1)]
    async with serving(loaded()) as client:
        alone = await client.ask(seeded)
        among, *_ = await asyncio.gather(*map(client.ask, [seeded, *others]))
    assert alone.done.token_ids == among.done.token_ids


async def test_the_service_describes_its_defaults(checkpoint, copy_of, loaded, serving):
    copy = with_generation_config(copy_of(checkpoint), **SAMPLING)
    modes = {mode: loaded(copy, generation_defaults=mode) for mode in ("greedy", "full", "none")}
    assert len({model.settings_fingerprint for model in modes.values()}) == 3
    async with serving(modes["full"]) as client:
        info = await client.stub.GetModelInfo(llm_pb2.GetLLMInfoRequest())
    expected = {name: value for name, value in SAMPLING.items() if name != "do_sample"}
    described = {field.name: value for field, value in info.default_sampling.ListFields()}
    assert described == expected | {"presence_penalty": 0, "frequency_penalty": 0}
    assert set(info.sampling_parameters) == set(llm_pb2.SamplingParams.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("repetition_penalty", 0.0),
        ("repetition_penalty", float("nan")),
        ("min_p", 1.5),
        ("presence_penalty", -3.0),
        ("frequency_penalty", float("inf")),
    ],
)
async def test_a_value_out_of_range_is_refused_by_name(loaded, serving, field, value):
    sampling = llm_pb2.SamplingParams(max_tokens=1, **{field: value})
    async with serving(loaded()) as client:
        with pytest.raises(grpc.aio.AioRpcError, match=field) as caught:
            await client.ask(llm_pb2.GenerateRequest(input_ids=[BOS], sampling=sampling))
    error = from_rpc_error(caught.value, "LLM service")
    assert isinstance(error, InvalidRequest)
    assert error.param == field
