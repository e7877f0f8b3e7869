"""Launching as on a GPU: tokens read a step later, few sizes of steps, and graphs with a stand-in for CUDA's."""

from __future__ import annotations

import gc
import logging
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from fovea.errors import InternalError, InvalidRequest, ServiceError
from fovea.modeling.capture import StandInCapture
from llm_service import metrics
from llm_service.engine import slot_graphs
from llm_service.engine.decode_buckets import attended_lengths, step_slot_counts
from llm_service.engine.launching import Launching, launching_on
from llm_service.engine.slot_graphs import prefill_sizes
from llm_service.engine.token_choice import NOT_FINITE
from llm_service.settings import LLMSettings
from llm_service.startup import load
from tests.unit.llm_service.test_engine import BOS, IMAGE, MIXED, alone, failures, mixed, read, request, run_dry

LLAVA = Path(__file__).parents[3] / "lab/checkpoints/llava"
DEFERRED = Launching(few_sizes=True, defers_reads=True)


class CountingCapture:
    """Stand-in that counts replays, and can capture something wrong or nothing."""

    def __init__(self, *, wrong_by=0.0, fails=False):
        self.replays = 0
        self._wrong_by = wrong_by
        self._fails = fails
        self._capture = StandInCapture()

    @property
    def nbytes(self):
        return self._capture.nbytes

    def __call__(self, compute):
        if self._fails:
            raise RuntimeError("no graph of this")
        captured, counting = self._capture(compute), self

        class Counted:
            outputs = captured.outputs

            def replay(self):
                counting.replays += 1
                captured.replay()
                for output in captured.outputs:
                    output.add_(counting._wrong_by)

        return Counted()


def graphed(capture):
    return Launching(few_sizes=True, defers_reads=True, capture=capture)


@pytest.fixture
def short(loaded):
    """An engine with few sizes: 4 slots of 64 positions."""

    def make(launching=None, **settings):
        return loaded(**{"max_batch_size": 4, "max_model_len": 64, **settings}, launching=launching).engine

    return make


async def answers(engine, indices):
    """Texts and ids of mixed requests, of which some join while others decode."""
    generations = [engine.submit(mixed(i)) for i in indices[:2]]
    engine.step()
    generations += [engine.submit(mixed(i)) for i in indices[2:]]
    run_dry(engine)
    return [(text, done.token_ids) for text, done in [await read(generation) for generation in generations]]


@pytest.mark.parametrize("graphs", [False, True])
async def test_answers_are_those_of_a_cpu(loaded, short, graphs):
    expected = [await alone(loaded, mixed(i)) for i in range(len(MIXED))]
    got = await answers(short(graphed(StandInCapture()) if graphs else DEFERRED), range(len(MIXED)))
    assert got == [(text, done.token_ids) for text, done in expected]


async def test_a_step_is_launched_before_the_tokens_of_the_step_before_are_read(short):
    engine = short(DEFERRED)
    generation = engine.submit(request(BOS, 60, max_tokens=4))
    seen = []
    while engine.num_waiting or engine.num_running:
        engine.step()
        seen.append((generation.num_chosen, len(generation.token_ids)))
    # The first step launches a prefill and a decoding step. The last one launches nothing.
    assert seen == [(2, 1), (3, 2), (4, 4)]
    assert len((await read(generation))[1].token_ids) == 4


async def test_tokens_behind_the_end_of_an_answer_are_dropped(loaded, recite_checkpoint, recited):
    """An end token or a stop string is found while one more token is under way."""
    engine = loaded(recite_checkpoint, launching=DEFERRED).engine
    ends, stopped = (engine.submit(request(BOS, max_tokens=60, stop=stop)) for stop in ((), (recited[8:12],)))
    run_dry(engine)
    text, done = await read(ends)
    assert (text, done.finish_reason) == (recited, "stop")
    assert ends.num_chosen == len(done.token_ids) + 1
    text, done = await read(stopped)
    assert (text, done.finish_reason) == (recited[:8], "stop")


async def test_an_aborted_sequence_leaves_and_its_slot_serves_the_next(loaded, short):
    expected = [await alone(loaded, mixed(i)) for i in (0, 2)]
    engine = short(DEFERRED, max_batch_size=2)
    aborted, kept = engine.submit(request(BOS, 80, max_tokens=50)), engine.submit(mixed(0))
    engine.step()
    before = failures("generation_abandoned")
    aborted.abort()
    joins = engine.submit(mixed(2))
    engine.step()
    assert failures("generation_abandoned") == before + 1
    assert joins.slot.index == 0
    run_dry(engine)
    assert [(await read(generation))[0] for generation in (kept, joins)] == [text for text, _ in expected]


@pytest.mark.parametrize("graphs", [False, True])
async def test_numbers_that_are_not_finite_end_one_sequence_and_not_the_next_in_its_slot(loaded, short, graphs):
    expected = await alone(loaded, mixed(3))
    engine = short(graphed(StandInCapture()) if graphs else DEFERRED, max_batch_size=2)
    other = engine.submit(request(BOS, 70, 71, max_tokens=30))
    bad = engine.submit(request(BOS, IMAGE, features=np.full((9, 32), 3e38, np.float32)))
    good = engine.submit(mixed(3))
    run_dry(engine)
    with pytest.raises(InvalidRequest, match="beyond the numbers"):
        await anext(bad)
    assert (await read(good))[0] == expected[0]
    assert len((await read(other))[1].token_ids) == 30


async def test_a_step_that_fails_ends_what_runs_and_nothing_later(loaded, short):
    expected = await alone(loaded, mixed(0))
    engine = short(DEFERRED)
    forward = engine._model.causal_lm.forward
    generations = [engine.submit(request(BOS, 60 + i, max_tokens=20)) for i in range(3)]
    engine.step()

    def fails(*args, **kwargs):
        raise RuntimeError("no check foresaw this")

    engine._model.causal_lm.forward = fails
    engine.step()
    engine._model.causal_lm.forward = forward
    assert engine.num_running == 0
    for generation in generations:
        with pytest.raises(InternalError):
            _ = [event async for event in generation]
    after = engine.submit(mixed(0))
    run_dry(engine)
    assert (await read(after))[0] == expected[0]


async def test_the_first_distribution_is_reported(loaded, short):
    (_, expected), engine = await alone(loaded, request(BOS, 60, logprobs=True)), short(DEFERRED)
    generation = engine.submit(request(BOS, 60, logprobs=True))
    run_dry(engine)
    np.testing.assert_allclose(
        (await read(generation))[1].first_token_logprobs, expected.first_token_logprobs, atol=1e-5
    )


async def test_graphs_serve_prefills_and_steps(short):
    capture = CountingCapture()
    engine = short(graphed(capture))
    assert metrics.CUDA_GRAPHS._value.get() == len(prefill_sizes(64)) + 3  # steps of 1, 2 and 4 slots
    assert metrics.CUDA_GRAPH_BYTES._value.get() > 0
    capture.replays = 0
    generation = engine.submit(request(BOS, 60, 61, max_tokens=5))
    run_dry(engine)
    assert capture.replays == 1 + 4  # a prefill and four steps
    await read(generation)


async def test_what_has_no_graph_is_computed_without(loaded, short, monkeypatch):
    """A prompt longer than any graph, and more sequences than any graph has rows."""
    monkeypatch.setattr(slot_graphs, "_PREFILL_LENGTHS", (8,))
    monkeypatch.setattr(slot_graphs, "step_slot_counts", lambda count: [1])
    expected = [await alone(loaded, mixed(i)) for i in range(3)]
    capture = CountingCapture()
    engine = short(graphed(capture))
    capture.replays = 0
    assert await answers(engine, range(3)) == [(text, done.token_ids) for text, done in expected]
    num_replays = capture.replays
    generation = engine.submit(request(BOS, *range(60, 75), max_tokens=1))
    run_dry(engine)
    await read(generation)
    assert capture.replays == num_replays > 0


@pytest.mark.parametrize(
    ("capture", "num_tried"),
    [(CountingCapture(wrong_by=0.1), len(prefill_sizes(64)) + 3), (CountingCapture(fails=True), 1)],
)
async def test_graphs_that_are_wrong_or_fail_are_left_out_counted_and_named_once(
    loaded, short, capture, num_tried, caplog
):
    """A failed capture ends them, because it may spoil later ones."""
    expected = await alone(loaded, mixed(0))
    before = failures("cuda_graph")
    engine = short(graphed(capture))
    assert failures("cuda_graph") == before + num_tried
    warning = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING][-1]
    assert "a step of 1 slots, 64 of 64 positions" in warning
    assert "a prefill of 1 prompts of 64 tokens" in warning
    capture.replays = 0
    generation = engine.submit(mixed(0))
    run_dry(engine)
    assert (await read(generation))[0] == expected[0]
    assert capture.replays == 0


async def test_numbers_that_an_earlier_prompt_left_in_a_graph_reach_no_other(loaded, short):
    """Rows and padding of a replay hold what was there before."""
    expected = await alone(loaded, mixed(0))
    engine = short(graphed(StandInCapture()), max_batch_size=1)
    bad = engine.submit(request(BOS, IMAGE, features=np.full((40, 32), 3e38, np.float32)))
    run_dry(engine)
    with pytest.raises(InvalidRequest):
        await anext(bad)
    good = engine.submit(mixed(0))
    run_dry(engine)
    assert (await read(good))[0] == expected[0]


def test_slots_are_empty_after_a_capture(short):
    engine = short(graphed(StandInCapture()))
    assert not any(tensor.any() for pair in engine._cache._layers for tensor in pair)


def test_sizes_that_are_captured_cover_all_steps_of_a_slot():
    assert attended_lengths(1000) == [128, 192, 256, 384, 512, 768, 1000]
    assert step_slot_counts(12) == [1, 2, 4, 8, 12]
    sizes = prefill_sizes(256)
    assert sizes[0] == (1, 64)
    assert (8, 128) in sizes
    assert all(rows * length <= 1024 for rows, length in sizes)
    assert max(length for _, length in sizes) == 256


def test_a_cpu_launches_nothing_ahead():
    assert launching_on(torch.device("cpu"), graphs=True) == Launching()


async def test_a_slot_is_free_only_when_the_last_token_under_way_has_been_read(loaded, recite_checkpoint):
    """That token may show that the slot holds numbers that are not finite."""
    engine = loaded(recite_checkpoint, launching=DEFERRED, max_batch_size=1).engine
    first = engine.submit(request(BOS, max_tokens=60))
    while not first.finished:
        engine.step()
    second = engine.submit(request(BOS, max_tokens=60))
    slot, reads = first.slot, engine._plain_batch._reads
    assert slot is not None
    (under_way,) = reads
    under_way._values = torch.full_like(under_way._values, NOT_FINITE)
    erased = []
    engine._cache.erase = lambda slot, num_positions: erased.append(slot)
    engine.step()
    assert (first.slot, erased) == (None, [slot])
    run_dry(engine)
    assert (await read(second))[0] == (await read(first))[0]


async def test_sequences_without_a_second_token_do_not_stay_in_memory(short):
    engine = short(DEFERRED)
    for _ in range(5):
        sequence = engine.submit(request(BOS, 60, max_tokens=1))
        run_dry(engine)
        await read(sequence)
    reference = weakref.ref(sequence)
    del sequence
    gc.collect()
    assert reference() is None


async def test_a_device_that_is_lost_ends_all_requests_and_is_reported(short):
    """Neither the forward nor the erasure of slots works any more."""
    engine = short(DEFERRED)
    generations = [engine.submit(request(BOS, 60 + i, max_tokens=20)) for i in range(3)]
    engine.step()

    def fails(*args, **kwargs):
        raise RuntimeError("the device is lost")

    engine._model.causal_lm.forward = engine._cache.erase = fails
    deaths = []
    engine._on_death = lambda: deaths.append(True)
    engine._run()
    assert deaths == [True]
    assert engine.num_running == 0
    for generation in generations:
        with pytest.raises(ServiceError):
            _ = [event async for event in generation]


def test_flash_attention_cannot_be_captured():
    with pytest.raises(ValueError, match="flash_attention_2 cannot be captured"):
        LLMSettings(model="m", attn_implementation="flash_attention_2", cuda_graphs="auto")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_cuda_graphs_give_the_answers_of_eager_runs(dtype):
    """The shipped model has two classes of slots."""
    texts = []
    for graphs in ("off", "auto"):
        settings = {"engine": "transformers", "max_model_len": 400, "dtype": dtype}
        engine = load(LLMSettings(model=str(LLAVA), device="cuda", cuda_graphs=graphs, **settings)).engine
        prompts = [(BOS, *range(60, 70 + 90 * i)) for i in range(4)]
        generations = [engine.submit(request(*ids, max_tokens=20)) for ids in prompts]
        run_dry(engine)
        texts.append([(await read(generation))[0] for generation in generations])
    assert texts[0] == texts[1]
    num_steps = len(step_slot_counts(8)) * (len(attended_lengths(256)) + len(attended_lengths(400)) - 2)
    assert metrics.CUDA_GRAPHS._value.get() == num_steps + len(prefill_sizes(400))
