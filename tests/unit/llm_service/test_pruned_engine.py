"""Sequences that are pruned inside the model, in mixed batches; the test calls the engine's steps."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
import torch

from fovea.budget import Budget
from fovea.errors import InvalidRequest
from llm_service.engine.base import Done, GenerationRequest, PruningParams
from llm_service.engine.pruned_decoding import PrunedDecoder
from llm_service.engine.pruned_prefill import PrunedInputs, prefill
from llm_service.engine.slot_cache import SlotCache
from llm_service.engine.slots import Slot, SlotClass
from llm_service.engine.visual_layout import num_prunable_tokens, visual_layout
from llm_service.models import load_model
from llm_service.models.decoder import LayeredDecoder
from llm_service.prompts import Prompt, VisualTokens
from llm_service.pruners import PRUNERS
from llm_service.pruners.plan import bind
from llm_service.sampling import SamplingParams

pytestmark = pytest.mark.slow

BOS, IMAGE = 1, 4


def image(count, seed=0, grid=(1, 8, 8)):
    features = np.random.default_rng(seed).standard_normal((count, 32), dtype=np.float32)
    return VisualTokens(features, np.arange(count), grid)


def request(*ids, images=(), pruner=None, keep=9, params=None, **sampling):
    pruning = None if pruner is None else PruningParams(bind(PRUNERS[pruner], params or {}), Budget.count(keep))
    return GenerationRequest(
        Prompt(np.array(ids), tuple(images)),
        SamplingParams(**{"max_tokens": 10, **sampling}),
        deadline=time.monotonic() + 60,
        pruning=pruning,
    )


def run_dry(engine):
    while engine.num_waiting or engine.num_running:
        engine.step()


async def read(generation):
    events = [event async for event in generation]
    assert isinstance(events[-1], Done)
    return events[-1]


@pytest.fixture
def deep(loaded, deep_checkpoint):
    return lambda **settings: loaded(deep_checkpoint, **settings).engine


async def alone(deep, single_request):
    engine = deep()
    generation = engine.submit(single_request)
    run_dry(engine)
    return await read(generation)


def mixed_requests():
    """Makers of requests: every method, two budgets, images and prompts of several sizes, some without pruning."""
    makers = []
    for i, name in enumerate([*PRUNERS, None, *PRUNERS, None]):
        ids = (BOS, *range(50, 50 + i % 4), IMAGE, *range(70, 72 + i % 5))
        sampling = {"temperature": 1.0, "seed": i} if i % 3 == 2 else {}
        options = {
            "images": [image(30 + i, seed=i)],
            "pruner": name,
            "keep": 4 + i,
            "max_tokens": 3 + 2 * i,
            **sampling,
        }
        makers.append(lambda ids=ids, options=options: request(*ids, **options))
    return makers


@pytest.mark.parametrize("max_batch_size", [3, 16])
async def test_answers_of_all_methods_do_not_depend_on_the_batch(deep, max_batch_size):
    """Sequences join while others decode and finish at different times."""
    expected = [await alone(deep, make()) for make in mixed_requests()]
    engine = deep(max_batch_size=max_batch_size)
    generations = []
    for make in mixed_requests():
        generations.append(engine.submit(make()))
        if len(generations) % 3 == 0:
            engine.step()
            assert engine.num_running <= max_batch_size
    run_dry(engine)
    for generation, expected_done in zip(generations, expected, strict=True):
        done = await read(generation)
        assert done.token_ids == expected_done.token_ids
        assert done.visual_tokens_by_layer == expected_done.visual_tokens_by_layer


async def test_an_aborted_sequence_leaves_and_the_others_go_on(deep):
    makers = mixed_requests()
    expected = await alone(deep, makers[3]())
    engine = deep()
    aborted, kept = (
        engine.submit(request(BOS, IMAGE, 70, images=[image(60)], pruner="v2drop")),
        engine.submit(makers[3]()),
    )
    engine.step()
    assert engine.num_running == 2
    aborted.abort()
    engine.step()
    assert engine.num_running == 1
    run_dry(engine)
    assert (await read(kept)).token_ids == expected.token_ids


@pytest.mark.parametrize("name", PRUNERS)
async def test_a_budget_that_drops_nothing_is_the_plain_path(deep, name):
    plain = await alone(deep, request(BOS, IMAGE, 70, 71, images=[image(12)]))
    kept = await alone(deep, request(BOS, IMAGE, 70, 71, images=[image(12)], pruner=name, keep=12))
    words = await alone(deep, request(BOS, 70, 71, pruner=name, keep=1))
    assert kept.token_ids == plain.token_ids
    assert kept.visual_tokens_by_layer == words.visual_tokens_by_layer == ()


@pytest.mark.parametrize("name", PRUNERS)
async def test_pruning_changes_the_tokens_of_layers_and_not_the_prompt_tokens(deep, name):
    done = await alone(deep, request(BOS, IMAGE, 70, 71, pruner=name, images=[image(60)], keep=20))
    assert done.prompt_tokens == 63
    assert done.visual_tokens_by_layer[0] == 60
    assert len(done.visual_tokens_by_layer) == 12
    assert min(done.visual_tokens_by_layer) < 60


@pytest.mark.parametrize("name", PRUNERS)
async def test_two_images_and_an_image_at_the_very_end(deep, name):
    ids = (BOS, 60, IMAGE, 61, IMAGE)
    done = await alone(deep, request(*ids, images=[image(20, 1), image(30, 2)], pruner=name, keep=8))
    assert len(done.token_ids) == 10
    # The last visual token yields the first answer token and is never pruned.
    assert done.visual_tokens_by_layer[0] == 49


async def test_a_prompt_that_fails_does_not_affect_running_sequences(deep, caplog):
    makers = mixed_requests()
    expected = await alone(deep, makers[0]())
    engine = deep()
    good = engine.submit(makers[0]())
    engine.step()
    bad = VisualTokens(np.ones((30, 7), np.float32), np.arange(30), (1, 8, 8))
    failing = engine.submit(request(BOS, IMAGE, 70, images=[bad], pruner="fastv"))
    run_dry(engine)
    with pytest.raises(Exception, match="the log of the LLM service has the reason"):
        await anext(failing)
    assert "the inputs of a sequence cannot be computed" in caplog.text
    assert (await read(good)).token_ids == expected.token_ids


@pytest.mark.parametrize("name", PRUNERS)
async def test_overflow_of_the_dtype_ends_its_own_sequence_only(deep, name):
    makers = mixed_requests()
    expected = await alone(deep, makers[0]())
    engine = deep()
    huge = VisualTokens(np.full((30, 32), 3e38, np.float32), np.arange(30), (1, 8, 8))
    bad = engine.submit(request(BOS, IMAGE, 70, images=[huge], pruner=name))
    good = engine.submit(makers[0]())
    run_dry(engine)
    with pytest.raises(InvalidRequest, match="beyond the numbers it can represent"):
        await anext(bad)
    assert (await read(good)).token_ids == expected.token_ids


async def test_a_batch_that_fails_while_decoding_does_not_affect_the_other_batch(deep, caplog):
    makers = mixed_requests()
    expected = await alone(deep, makers[len(PRUNERS)]())
    engine = deep()
    pruned, plain = engine.submit(makers[1]()), engine.submit(makers[len(PRUNERS)]())
    engine.step()
    ((sequences, ids),) = engine._layered_batch._last_tokens
    engine._layered_batch._last_tokens = [(sequences, ids + 10**9)]  # outside the embedding table
    run_dry(engine)
    with pytest.raises(Exception, match="the log of the LLM service has the reason"):
        await read(pruned)
    assert "a step with 1 sequences failed" in caplog.text
    assert (await read(plain)).token_ids == expected.token_ids


async def test_an_average_out_of_reach_is_refused_before_the_queue(deep):
    engine = deep()
    with pytest.raises(InvalidRequest, match="the least accepted") as caught:
        engine.submit(
            request(BOS, IMAGE, 70, images=[image(60)], pruner="v2drop", keep=2, params={"counting": "average"})
        )
    assert caught.value.param == "llm_pruner"
    assert engine.num_waiting == 0


async def test_a_model_that_cannot_run_layer_by_layer_serves_unpruned_requests(loaded, mistral_checkpoint):
    engine = loaded(mistral_checkpoint).engine
    assert engine.pruners == {}
    with pytest.raises(InvalidRequest, match="cannot be pruned layer by layer"):
        engine.submit(request(BOS, IMAGE, 70, images=[image(9)], pruner="fastv", keep=3))
    generation = engine.submit(request(BOS, IMAGE, 70, images=[image(9)]))
    run_dry(engine)
    assert len((await read(generation)).token_ids) == 10


def language_model(checkpoint, attn="sdpa", dtype="float32"):
    return load_model(checkpoint, device=torch.device("cpu"), dtype=dtype, attn_implementation=attn)


def pruned_decoder(model, *counts):
    """A decoder with classes of so many slots."""
    classes = [SlotClass(100 + 20 * i, count) for i, count in enumerate(counts)]
    return PrunedDecoder(LayeredDecoder(model.causal_lm), SlotCache.for_model(model, classes))


def prefilled(model, name, keep=10, **params):
    prompt = Prompt(np.array([BOS, 50, IMAGE, 70, 71]), (image(40),))
    layout = visual_layout(prompt, [IMAGE], model.device)
    decoder = LayeredDecoder(model.causal_lm)
    plan = bind(PRUNERS[name], params).plan(Budget.count(keep), len(layout), decoder.num_layers)
    with torch.inference_mode():
        return decoder, plan, prefill(decoder, PrunedInputs(model.embed(prompt), layout, plan))


@pytest.mark.parametrize("name", PRUNERS)
def test_caches_shrink_with_the_plan_and_position_ids_follow_the_method(deep_checkpoint, name):
    _, plan, sequence = prefilled(language_model(deep_checkpoint), name)
    lengths = [keys.shape[2] for keys, *_ in sequence.cache]
    assert lengths == [4 + count for count in plan.visual_tokens]
    assert sequence.next_position_ids.tolist() == (lengths if PRUNERS[name].compact else [44] * 12)
    num_kept = [plan.visual_tokens[stage.layer] for stage in plan.stages]
    assert [len(kept) for kept in sequence.kept_per_stage] == num_kept


def test_states_of_a_mixed_batch_are_those_of_single_sequences(deep_checkpoint):
    """Stricter than equal tokens: all states of all steps, while the longest sequence leaves in between."""
    model = language_model(deep_checkpoint, dtype="float64")
    prefills = [prefilled(model, name, 5 + 4 * i) for i, name in enumerate(PRUNERS)]
    decoder, sequences = prefills[0][0], [sequence for _, _, sequence in prefills]
    token = decoder.embed(torch.tensor([60]))
    with torch.inference_mode():
        alone = []
        for sequence in sequences:
            single = pruned_decoder(model, 1)
            single.append([sequence], [Slot(0, 0)])
            alone.append([single.decode(token)[0] for _ in range(5)])
        pruned = pruned_decoder(model, 6, 6)
        slots = [Slot(0, 4), Slot(1, 0), Slot(0, 1), Slot(1, 5), Slot(1, 2), Slot(0, 2), Slot(0, 3)][: len(sequences)]
        pruned.append(sequences[:4], slots[:4])
        pruned.append(sequences[4:], slots[4:])
        together = [pruned.decode(token.expand(len(sequences), -1)) for _ in range(3)]
        longest = int(pruned.lengths.max(axis=1).argmax())
        kept = [i for i in range(len(sequences)) if i != longest]
        pruned.keep(kept)
        after = [pruned.decode(token.expand(len(kept), -1)) for _ in range(2)]
    for i, states in enumerate(alone):
        torch.testing.assert_close(
            torch.stack([step[i] for step in together]), torch.stack(states[:3]), atol=1e-6, rtol=0
        )
    for index, i in enumerate(kept):
        torch.testing.assert_close(torch.stack([s[index] for s in after]), torch.stack(alone[i][3:]), atol=1e-6, rtol=0)
    assert not torch.allclose(alone[0][0], alone[0][1], atol=1e-3)


@pytest.mark.parametrize("name", ["fastv", "adaptprune"])
def test_fidelity_caches_the_layer_before_twice(deep_checkpoint, name):
    decoder, _, sequence = prefilled(language_model(deep_checkpoint), name, fidelity=True)
    assert [keys.shape[2] for keys, *_ in sequence.cache] == [88, *[14] * 11]
    assert sequence.next_position_ids.tolist() == [44] * 12
    _, _, clean = prefilled(language_model(deep_checkpoint), name)
    assert torch.equal(sequence.last_hidden, clean.last_hidden)
    pruned = pruned_decoder(language_model(deep_checkpoint), 2)
    pruned.append([sequence, clean], [Slot(0, 0), Slot(0, 1)])
    with torch.inference_mode():
        doubled, single = pruned.decode(decoder.embed(torch.tensor([60, 60])))
    assert not torch.allclose(doubled, single)


@pytest.mark.parametrize("name", PRUNERS)
def test_attention_kernels_agree(deep_checkpoint, name):
    states = []
    for attn in ("sdpa", "eager"):
        model = language_model(deep_checkpoint, attn)
        decoder, _, sequence = prefilled(model, name)
        _, _, other = prefilled(model, "fastv", 25)
        pruned = pruned_decoder(model, 2)
        pruned.append([sequence, other], [Slot(0, 1), Slot(0, 0)])
        with torch.inference_mode():
            states.append(torch.stack([pruned.decode(decoder.embed(torch.tensor([60, 61]))) for _ in range(3)]))
    assert torch.allclose(*states, atol=1e-4)


@pytest.mark.parametrize("name", PRUNERS)
def test_half_precision_runs_with_scores_in_float32(deep_checkpoint, name):
    _, _, sequence = prefilled(language_model(deep_checkpoint, dtype="bfloat16"), name)
    assert sequence.last_hidden.dtype == torch.bfloat16
    assert sequence.last_hidden.isfinite().all()


def test_coordinates_come_from_grid_positions_and_not_from_the_order():
    """4 kept tokens of 8 x 8 patches, and a clip of two frames."""
    still = VisualTokens(np.zeros((4, 32), np.float32), np.array([0, 9, 17, 63]), (1, 8, 8))
    clip = VisualTokens(np.zeros((3, 32), np.float32), np.array([1, 4, 7]), (2, 2, 2))
    prompt = Prompt(np.array([BOS, IMAGE, 60, 61, IMAGE, 62]), (still, clip))
    layout = visual_layout(prompt, [IMAGE], torch.device("cpu"))
    assert layout.indices.tolist() == [1, 2, 3, 4, 7, 8, 9]
    assert layout.image.tolist() == [0, 0, 0, 0, 1, 2, 2]
    assert layout.row.tolist() == [0, 1, 2, 7, 0, 0, 1]
    assert layout.column.tolist() == [0, 1, 1, 7, 1, 0, 1]
    assert layout.grids == ((8, 8), (2, 2), (2, 2))
    assert num_prunable_tokens(prompt, [IMAGE]) == len(layout) == 7


def test_frames_without_a_token_take_no_memory():
    """Work and memory grow with the tokens, not with the grid of the message."""
    video = VisualTokens(np.zeros((4, 32), np.float32), np.array([12, 15, 4000, 4001]), (2**30, 2, 2))
    after = VisualTokens(np.zeros((1, 32), np.float32), np.array([5]), (1, 3, 3))
    prompt = Prompt(np.array([BOS, IMAGE, IMAGE, 60]), (video, after))
    tracemalloc.start()
    layout = visual_layout(prompt, [IMAGE], torch.device("cpu"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert layout.image.tolist() == [0, 0, 1, 1, 2]
    assert layout.grids == ((2, 2), (2, 2), (3, 3))
    assert layout.row.tolist() == [0, 1, 0, 0, 1]
    assert layout.column.tolist() == [0, 1, 0, 1, 2]


def test_line_end_tokens_and_tokens_without_a_patch_are_not_pruned():
    """A base tile of 1 x 2 patches, a mosaic of 2 x 2 with line-end tokens, and a frame with its CLS token."""
    newline_after = np.array([3, 5])
    tiled = VisualTokens(np.zeros((6, 32), np.float32), np.array([0, 1, 2, 4, 3, 5]), (3, 1, 2), newline_after)
    frame = VisualTokens(np.zeros((3, 32), np.float32), np.array([2, 0, 1]), (1, 1, 2))
    prompt = Prompt(np.array([BOS, IMAGE, 60, IMAGE]), (tiled, frame))
    assert prompt.num_tokens == 2 + 8 + 3
    layout = visual_layout(prompt, [IMAGE], torch.device("cpu"))
    assert layout.indices.tolist() == [1, 2, 3, 4, 6, 7, 11]  # 5 and 8 are line ends, 10 is CLS, 12 ends the prompt
    assert layout.image.tolist() == [0, 0, 1, 2, 1, 2, 3]
    assert layout.column.tolist() == [0, 1, 0, 0, 1, 1, 0]
    assert num_prunable_tokens(prompt, [IMAGE]) == 7
