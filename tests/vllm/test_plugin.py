"""The plugin inside a real vLLM: answers to pruned images and videos are those of transformers.

The checkpoint that the plugin's engine loads has no vision tower, so that reading one would fail.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration
from vllm import LLM, SamplingParams

from benchmarks.checkpoints.tiny import qwen2_5_vl
from llm_service.mrope import mrope_position_ids
from llm_service.prompts import Prompt, VisualTokens
from llm_service.vllm_plugin import ARCHITECTURE
from llm_service.vllm_plugin.payload import multi_modal_data
from tests.qwen import IMAGE, PROMPTS, START, VIDEO, VISION, VISION_END, Visual, a_third, answer_of, decoded, merged

pytestmark = pytest.mark.timeout(900)

GREEDY = SamplingParams(max_tokens=12, temperature=0, logprobs=-1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return qwen2_5_vl.write(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def unsplit(checkpoint):
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()


def engine(folder, **arguments):
    return LLM(
        str(folder),
        dtype="float32",
        max_model_len=1024,
        max_num_seqs=8,
        max_logprobs=-1,
        enforce_eager=True,
        enable_mm_embeds=True,
        **arguments,
    )


@pytest.fixture(scope="module")
def llm(checkpoint, unsplit):
    weights = checkpoint / "model.safetensors"
    complete = load_file(weights)
    save_file({name: t for name, t in complete.items() if "visual." not in name}, weights, metadata={"format": "pt"})
    try:
        llm = engine(
            checkpoint,
            hf_overrides={"architectures": [ARCHITECTURE]},
            limit_mm_per_prompt={"image": 0, "video": 0},
            max_num_batched_tokens=48,  # an image of 54 tokens is prefilled in chunks
        )
    finally:
        save_file(complete, weights, metadata={"format": "pt"})
    yield llm
    llm.llm_engine.engine_core.shutdown()


def kept_tokens(visuals, features, kept):
    return [
        VisualTokens(
            tokens[keep],
            np.array(keep),
            visual.grid,
            is_video=visual.seconds is not None,
            seconds_per_frame=visual.seconds or 0,
        )
        for visual, tokens, keep in zip(visuals, features, kept, strict=True)
    ]


def prompt_of(ids, visual_tokens):
    data = multi_modal_data(visual_tokens, merge_size=2, dtype=torch.float32)
    return {"prompt_token_ids": ids, **({"multi_modal_data": data} if data else {})}


def ask(llm, prompts, sampling=GREEDY):
    """Generated tokens and their log-probabilities [n, V] for each prompt."""
    answers = []
    for output in llm.generate(prompts, sampling, use_tqdm=False):
        completion = output.outputs[0]
        logprobs = [[by_id[i].logprob for i in range(len(by_id))] for by_id in completion.logprobs]
        answers.append((list(completion.token_ids), np.array(logprobs)))
    return answers


def assert_same(answer, expected):
    assert answer[0] == expected[0]
    assert np.abs(answer[1] - expected[1]).max() <= 1e-4


def everything(visuals):
    return [list(range(math.prod(visual.grid))) for visual in visuals]


# An image followed by a video without text between them.
ADJACENT = ([START, VISION, IMAGE, VIDEO, VISION_END, 50], [Visual(1, 4, 5), Visual(3, 2, 6, 1.5)])


@pytest.mark.parametrize("choose", [everything, a_third], ids=["whole", "pruned"])
def test_answers_are_those_of_transformers_at_the_same_position_ids(llm, unsplit, choose):
    cases = [(ids, visuals, merged(unsplit, visuals), choose(visuals)) for ids, visuals in [*PROMPTS, ADJACENT]]
    expected = [answer_of(unsplit, *case, max_tokens=GREEDY.max_tokens) for case in cases]
    assert len({tuple(tokens) for tokens, _ in expected}) == len(expected)
    together = ask(llm, [prompt_of(ids, kept_tokens(*rest)) for ids, *rest in cases])
    for answer, (ids, *rest), expected_answer in zip(together, cases, expected, strict=True):
        assert_same(answer, expected_answer)
        assert_same(ask(llm, [prompt_of(ids, kept_tokens(*rest))])[0], expected_answer)


def test_images_without_text_between_them(llm, unsplit):
    """`get_rope_index` of transformers takes two such images for one; the unit tests cover the position ids."""
    ids, visuals = [START, IMAGE, IMAGE, 51], [Visual(1, 4, 5), Visual(1, 3, 3)]
    prompt = Prompt(np.array(ids), tuple(kept_tokens(visuals, merged(unsplit, visuals), a_third(visuals))))
    position_ids, _ = mrope_position_ids(prompt, np.array([1, 2]), 2)
    text = unsplit.get_input_embeddings()(torch.tensor(ids))
    images = [torch.from_numpy(tokens.features) for tokens in prompt.visual_tokens]
    embeds = torch.cat([text[:1], *images, text[3:]])
    expected = decoded(unsplit, embeds, torch.from_numpy(position_ids), GREEDY.max_tokens)
    assert_same(ask(llm, [prompt_of(ids, prompt.visual_tokens)])[0], expected)


def test_prefix_caching_distinguishes_payloads_that_differ_in_one_field(llm, unsplit):
    """Other features, the same ones at other positions, the same video at another speed: each has its own answer."""
    after = [VISION_END, *(20 + i % 200 for i in range(300))]
    image, slow, fast = Visual(1, 8, 8), Visual(4, 4, 4, 4.0), Visual(4, 4, 4, 0.5)
    features = merged(unsplit, [image])[0]
    other = features[::-1].copy()
    keep, elsewhere = list(range(0, 64, 3)), [*range(1, 64, 3), 62]
    ids, video_ids = [START, VISION, IMAGE, *after], [START, VISION, VIDEO, *after]
    moved = features.copy()
    moved[elsewhere] = features[keep]
    cases = [
        (ids, [image], [features], [keep]),
        (ids, [image], [other], [keep]),
        (ids, [image], [moved], [elsewhere]),
        (video_ids, [slow], [features], [keep]),
        (video_ids, [fast], [features], [keep]),
    ]
    expected = [answer_of(unsplit, *case, max_tokens=4) for case in cases]
    first = SamplingParams(max_tokens=4, temperature=0, logprobs=-1)
    for case, answer in zip(cases, expected, strict=True):
        prompt = prompt_of(case[0], kept_tokens(*case[1:]))
        assert_same(ask(llm, [prompt], first)[0], answer)
        again = llm.generate([prompt], first, use_tqdm=False)[0]
        assert again.num_cached_tokens > len(keep), "the prompt is too short to be cached: this test shows nothing"
        assert list(again.outputs[0].token_ids) == answer[0]


def hostile(payload):
    """Payloads with one fault each."""
    image = payload["image"]
    embeds, grid, positions = image["image_embeds"], image["image_grid_thw"], image["image_positions"]
    faults = [
        {"image_embeds": embeds * math.nan},
        {"image_embeds": embeds[:-1]},
        {"image_embeds": embeds[:, :-1]},
        {"image_embeds": embeds.long()},
        {"image_num_tokens": image["image_num_tokens"] + 1},
        {"image_num_tokens": torch.tensor([1, 2])},
        {"image_positions": positions + 1000},
        {"image_positions": positions - 1000},
        {"image_positions": positions[:-1]},
        {"image_grid_thw": grid * torch.tensor([1, 1, 2**40])},
        {"image_grid_thw": grid * torch.tensor([1, -1, 1])},
    ]
    yield from ({"image": image | fault} for fault in faults)
    for missing in image:
        yield {"image": {name: value for name, value in image.items() if name != missing}}
    # A payload of vLLM's own kind with too few embeddings for its grid.
    yield {"image": {"image_embeds": embeds, "image_grid_thw": grid}}


def test_payloads_that_would_crash_the_engine_are_refused_and_the_next_is_answered(llm, unsplit):
    ids, visuals = PROMPTS[0]
    case = (visuals, merged(unsplit, visuals), a_third(visuals))
    prompt = prompt_of(ids, kept_tokens(*case))
    for data in hostile(prompt["multi_modal_data"]):
        with pytest.raises(ValueError):
            llm.generate([prompt | {"multi_modal_data": data}], GREEDY, use_tqdm=False)
    expected = answer_of(unsplit, ids, *case, max_tokens=GREEDY.max_tokens)
    assert_same(ask(llm, [prompt])[0], expected)


def test_images_that_together_exceed_the_models_positions_are_refused(llm):
    """Each grid alone ends before the last position."""
    wide = VisualTokens(np.ones((1, 128), np.float32), np.array([0]), (1, 1, 3000))
    long = VisualTokens(
        np.ones((1, 128), np.float32), np.array([999]), (1000, 1, 1), is_video=True, seconds_per_frame=2
    )
    ask(llm, [prompt_of([START, IMAGE, 20], [wide]), prompt_of([START, VIDEO, 20], [long])])
    with pytest.raises(ValueError, match="reaches position 6001; 4095 is the last"):
        ask(llm, [prompt_of([START, IMAGE, IMAGE, 20], [wide, wide])])
    with pytest.raises(ValueError, match="reaches position 6997"):
        ask(llm, [prompt_of([START, IMAGE, VIDEO, 20], [wide, long])])


def test_vllms_own_architecture_is_not_changed(checkpoint, unsplit, llm):
    """vLLM's own architecture, in the same process: embeddings of unpruned grids, and pixels."""
    stock = engine(checkpoint, limit_mm_per_prompt={"image": 2, "video": 0})
    try:
        ids, visuals = PROMPTS[1]
        features = merged(unsplit, visuals)
        expected = answer_of(unsplit, ids, visuals, features, everything(visuals), max_tokens=GREEDY.max_tokens)
        payload = prompt_of(ids, kept_tokens(visuals, features, everything(visuals)))
        image = payload["multi_modal_data"]["image"]
        own = {name: image[name] for name in ("image_embeds", "image_grid_thw")}
        prompt = payload | {"multi_modal_data": {"image": own}}
        assert_same(ask(stock, [prompt])[0], expected)
        assert_same(ask(llm, [prompt])[0], expected)

        pixels = np.random.default_rng(0).integers(0, 256, (112, 168, 3), dtype=np.uint8)
        answer = ask(
            stock, [{"prompt_token_ids": PROMPTS[0][0], "multi_modal_data": {"image": Image.fromarray(pixels)}}]
        )[0]
        assert_same(answer, of_pixels(unsplit, stock, pixels))
    finally:
        stock.llm_engine.engine_core.shutdown()


@torch.inference_mode()
def of_pixels(unsplit, llm, pixels):
    """Answer of transformers to the patches that vLLM's own processor computes for an image."""
    processor = llm.llm_engine.renderer.get_mm_processor().info.get_hf_processor()
    patches = processor.image_processor(images=[Image.fromarray(pixels)], return_tensors="pt")
    _, height, width = patches["image_grid_thw"][0].tolist()
    features = unsplit.model.visual(patches["pixel_values"], grid_thw=patches["image_grid_thw"]).pooler_output.numpy()
    visual = Visual(1, height // 2, width // 2)
    return answer_of(unsplit, PROMPTS[0][0], [visual], [features], everything([visual]), max_tokens=GREEDY.max_tokens)
