"""Qwen3-VL in vLLM: DeepStack planes, frames that are items of their own, and frames of which no token is kept.

Expected answers are those of the transformers engine, which tests/unit/families/test_qwen3_vl.py compares with the
unsplit model. The engine prefills in small chunks.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
import shutil

import numpy as np
import pytest
import torch
from vllm.engine.arg_utils import EngineArgs
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing import ProcessorInputs, TimingContext

from fovea.errors import InvalidRequest
from llm_service.engine.base import Delta
from llm_service.prompts import Prompt, VisualTokens
from llm_service.vllm_plugin import QWEN3_ARCHITECTURE, register
from llm_service.vllm_plugin.payload import multi_modal_data
from tests.vllm.engines import MAX_MODEL_LEN, Requests, cached_tokens, drop_towers, served, write

pytestmark = pytest.mark.timeout(900)

CHUNK = 48  # an image of 54 tokens is prefilled in chunks
WORDS = [60, 61, 62, 63, 64, 65]
LONG_TEXT = [20 + i % 200 for i in range(300)]  # of several blocks of the prefix cache


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write("qwen3_vl", tmp_path_factory.mktemp("qwen3_vl"))


@dataclasses.dataclass
class Both:
    """Both engines, and requests for them."""

    transformers: object
    vllm: object
    requests: Requests

    async def answers(self, requests):
        """Answers of vLLM to requests that run together, after a check that they are those of transformers.

        Each is a pair of greedy tokens and their log-probabilities.
        """
        actual = await asyncio.gather(*(tokens_of(self.vllm, request) for request in requests))
        for request, answer in zip(requests, actual, strict=True):
            expected = await tokens_of(self.transformers, request)
            assert answer[0] == expected[0]
            np.testing.assert_allclose(answer[1], expected[1], atol=1e-4)
        return actual


async def tokens_of(engine, request):
    """Greedy tokens and the log-probabilities of the five most probable ones at each position."""
    logprobs = [one async for event in engine.submit(request) if isinstance(event, Delta) for one in event.logprobs]
    return [one.token_id for one in logprobs], [[top.logprob for top in one.top] for one in logprobs]


@pytest.fixture(scope="module")
def both(checkpoint, tmp_path_factory):
    without_tower = shutil.copytree(checkpoint, tmp_path_factory.mktemp("language") / "copy")
    drop_towers(without_tower)
    transformers = served(checkpoint, "transformers")
    vllm = served(without_tower, "vllm", engine_args={"enforce_eager": True, "max_num_batched_tokens": CHUNK})
    deaths = []
    transformers.engine.start()
    vllm.engine.start(on_death=lambda: deaths.append("vllm"))
    yield Both(transformers.engine, vllm.engine, Requests(vllm.limits))
    transformers.engine.stop()
    vllm.engine.stop()
    assert not deaths


def visual(limits, grid, kept=None, *, video=False, seed=0):
    """Tokens with features and planes of their own at positions `kept` of a grid, all positions unless given."""
    rng = np.random.default_rng(seed)
    every = rng.standard_normal((math.prod(grid), 1 + limits.num_planes, limits.visual_hidden_size), dtype=np.float32)
    positions = np.arange(math.prod(grid)) if kept is None else np.array(kept, np.int64)
    features, *planes = every[positions].transpose(1, 0, 2)
    return VisualTokens(
        features, positions, grid, is_video=video, seconds_per_frame=0.5 if video else 0.0, planes=tuple(planes)
    )


def a_third(grid, seed=5):
    """A third of the positions in any order, as methods may emit them by rank; none of the second of several frames."""
    size = math.prod(grid)
    order = np.random.default_rng(seed).permutation(size)
    frame = order // (grid[1] * grid[2])
    return order[(frame != 1) | (grid[0] == 1)][: max(1, size // 3)]


MEDIA = [
    [(1, 6, 9)],
    [(1, 2, 11), (1, 5, 3)],
    [(1, 4, 4), (1, 1, 1), (1, 9, 2)],
    [(3, 3, 4)],
    [(5, 2, 3), (1, 6, 9), (4, 1, 2)],
    [],
]


@pytest.mark.parametrize("choose", [lambda _: None, a_third], ids=["whole", "pruned"])
async def test_answers_and_log_probabilities_are_those_of_transformers(both, choose):
    """One and several images, a video, one with an empty frame, images beside videos, text: in one batch, and alone."""
    limits = both.requests.limits
    requests = [
        both.requests.make(
            words,
            [visual(limits, grid, choose(grid), video=grid[0] > 1, seed=i) for i, grid in enumerate(grids)],
            top_logprobs=5,
        )
        for grids in MEDIA
        for words in (WORDS, [60])  # with text between the images, and without
    ]
    counts = [tokens.num_tokens for request in requests for tokens in request.prompt.visual_tokens]
    assert max(counts) > CHUNK or 0 in counts
    answers = await both.answers(requests)
    assert len({tuple(tokens) for tokens, _ in answers}) == len(requests)
    await both.answers(requests[:1])


async def test_prompts_that_differ_in_one_field_share_no_cached_prefix(both):
    """Other features, one other plane, other positions, another order: each has its own answer, also when cached."""
    limits = both.requests.limits
    image = visual(limits, (1, 8, 8), range(0, 64, 3))
    planes = list(image.planes)
    planes[1] = planes[1][::-1].copy()
    images = [
        image,
        dataclasses.replace(image, features=image.features[::-1].copy()),
        dataclasses.replace(image, planes=tuple(planes)),
        dataclasses.replace(image, planes=image.planes[::-1]),
        dataclasses.replace(image, positions=image.positions[::-1].copy()),
        dataclasses.replace(image, grid=(1, 4, 16)),
    ]
    ids = np.array([1, limits.image_token_id, *LONG_TEXT])
    await assert_apart(both, [with_prompt(both, ids, one) for one in images])


async def test_the_grid_of_an_empty_frame_is_part_of_the_prefix(both):
    """Text after a frame of which no token is kept has position ids that depend on the frame's grid."""
    ids = np.array([1, *frame_ids(both.requests.limits), *LONG_TEXT])
    frames = [visual(both.requests.limits, grid, [], video=True) for grid in ((1, 3, 3), (1, 40, 2), (1, 90, 2))]
    await assert_apart(both, [with_prompt(both, ids, frame) for frame in frames])


def with_prompt(both, ids, *visual_tokens):
    request = both.requests.make([60], top_logprobs=5, max_tokens=4)
    return dataclasses.replace(request, prompt=Prompt(ids, visual_tokens))


async def assert_apart(both, requests):
    """Every prompt has log-probabilities of its own, hits the cache the second time only, and is answered the same."""
    logprobs, hits = [], []
    for request in [*requests, *requests]:
        before = cached_tokens()
        [(_, values)] = await both.answers([request])
        hits.append(cached_tokens() - before)
        logprobs.append(values[0])
    first, again = hits[: len(requests)], hits[len(requests) :]
    assert first == [0] * len(requests)
    assert min(again) >= 256, "the prompt is too short to be cached: this test shows nothing"
    for one, other in itertools.combinations(logprobs[: len(requests)], 2):
        assert np.abs(np.subtract(one, other)).max() > 1e-3


def frame_ids(limits):
    return limits.frame_prompt.start_token_id, limits.video_token_id, limits.frame_prompt.end_token_id


async def test_a_plane_beyond_the_dtype_is_refused(both):
    limits = both.requests.limits
    image = visual(limits, (1, 2, 2))
    for value in (3e38, math.nan):
        planes = [*image.planes[:2], np.full_like(image.planes[2], value)]
        request = both.requests.make(WORDS, [dataclasses.replace(image, planes=tuple(planes))])
        with pytest.raises(InvalidRequest, match="beyond the numbers"):
            await tokens_of(both.vllm, request)


async def test_an_answer_may_continue_past_the_models_last_position(both):
    """Positions of pruned images outnumber the tokens: vLLM's own rotary table ends with the context of 4096."""
    wide = visual(both.requests.limits, (1, 1, 4080), [4079])
    [(answer, _)] = await both.answers(
        [both.requests.make(WORDS, [wide], top_logprobs=5, max_tokens=32, ignore_eos=True)]
    )
    assert len(answer) == 32
    with pytest.raises(InvalidRequest, match="reaches position 8161; 4095 is the last"):
        await tokens_of(both.vllm, both.requests.make([60], [wide, wide]))


@pytest.fixture(scope="module")
def processor(checkpoint):
    """The processor that stands before the engine core."""
    register()
    arguments = EngineArgs(
        str(checkpoint),
        dtype="float32",
        max_model_len=MAX_MODEL_LEN,
        enable_mm_embeds=True,
        limit_mm_per_prompt={"image": 0, "video": 0},
        hf_overrides={"architectures": [QWEN3_ARCHITECTURE]},
    )
    return MULTIMODAL_REGISTRY.create_processor(arguments.create_model_config())


def processed(processor, ids, data):
    items = processor.info.parse_mm_data(data)
    return processor.apply(ProcessorInputs(prompt=ids, mm_data_items=items), TimingContext())


def frames(*counts):
    return [
        VisualTokens(
            np.ones((count, 128), np.float32),
            np.arange(count),
            (1, 2, 3),
            is_video=True,
            planes=(np.ones((count, 128), np.float32),) * 3,
        )
        for count in counts
    ]


def test_ids_of_a_prompt_stay_except_for_repeated_placeholders(processor, both):
    start, video, end = frame_ids(both.requests.limits)
    ids = [1, start, 20, start, video, end, 21, start, video, end, 22, start, video, end, end, 40]
    data = multi_modal_data(frames(2, 0, 1), merge_size=2, dtype=torch.float32)
    result = processed(processor, ids, data)
    expanded = [1, start, 20, start, video, video, end, 21, start, end, 22, start, video, end, end, 40]
    assert result["prompt_token_ids"] == expanded
    assert [span.get_num_embeds() for span in result["mm_placeholders"]["video"]] == [2, 0, 1]


def hostile():
    """Payloads with one fault each."""
    image = [dataclasses.replace(tokens, is_video=False) for tokens in frames(3, 1)]
    data = multi_modal_data([*image, *frames(3, 0, 1)], merge_size=2, dtype=torch.float32)
    for modality, payload in data.items():
        embeds, counts = payload[f"{modality}_embeds"], payload[f"{modality}_num_tokens"]
        positions, grid = payload[f"{modality}_positions"], payload[f"{modality}_grid_thw"]
        faults = [
            {f"{modality}_embeds": embeds * math.nan},
            {f"{modality}_embeds": embeds[:-1]},
            {f"{modality}_embeds": embeds[:, :128]},  # without planes
            {f"{modality}_embeds": embeds[:, :-1]},
            {f"{modality}_embeds": torch.cat([embeds, embeds], 1)},
            {f"{modality}_num_tokens": counts + 1},
            {f"{modality}_num_tokens": counts * -1},
            {f"{modality}_positions": positions + 1000},
            {f"{modality}_positions": positions - 1000},
            {f"{modality}_positions": positions[:-1]},
            {f"{modality}_grid_thw": grid * torch.tensor([1, 1, 2**40])},
            {f"{modality}_grid_thw": grid * torch.tensor([2, 1, 1])},
            *({name: None} for name in payload if name != "second_per_grid_ts"),
        ]
        for fault in faults:
            whole = payload | fault
            yield {**data, modality: {name: value for name, value in whole.items() if value is not None}}


def test_payloads_that_would_crash_the_engine_are_refused(processor, both):
    start, video, end = frame_ids(both.requests.limits)
    image = both.requests.limits.image_token_id
    ids = [1, image, image, *[start, video, end] * 3, 20]
    for data in hostile():
        with pytest.raises(ValueError):
            processed(processor, ids, data)
    good = multi_modal_data(frames(3, 0, 1), merge_size=2, dtype=torch.float32)
    assert processed(processor, [1, *[start, video, end] * 3, 20], good)["mm_hashes"]


def test_a_video_of_vllms_own_kind_beside_a_pruned_image_is_refused(processor, both):
    limits = both.requests.limits
    image = [dataclasses.replace(tokens, is_video=False) for tokens in frames(2)]
    data = multi_modal_data(image, merge_size=2, dtype=torch.float32)
    data["video"] = {
        "video_embeds": torch.ones(4, 512),
        "video_grid_thw": torch.tensor([[1, 4, 4]]),
        "timestamps": torch.tensor([[0.5]]),
    }
    start, video, end = frame_ids(limits)
    with pytest.raises(ValueError, match="a video of vLLM's own kind"):
        processed(processor, [1, limits.image_token_id, start, video, end, 20], data)
