"""Slots: how memory is divided, who gets which slot, and what happens when there is none."""

from __future__ import annotations

import dataclasses
import functools
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import MistralConfig

from benchmarks.checkpoints.tiny.llava_language import make_llava, save
from benchmarks.speed.dispatch_counts import count_operations
from fovea.errors import InternalError, InvalidRequest
from fovea.modeling.errors import CheckpointError
from llm_service.engine import cache_memory
from llm_service.engine.base import CrossAttention
from llm_service.engine.decode_buckets import attended_length, num_step_slots
from llm_service.engine.launching import Launching
from llm_service.engine.slots import Slot, SlotAdmission, SlotClass, SlotPool, divide_positions
from tests.unit.llm_service.test_engine import BOS, IMAGE, MIXED, alone, mixed, read, request, run_dry

LLAVA = Path(__file__).parents[3] / "lab/checkpoints/llava"
POSITION_BYTES = 2 * 3 * 2 * 16 * 4  # keys and values, layers, heads, width, float32
GIB = 2**30
EOS = 2
VIEWS = ("aten.slice.Tensor", "aten.view.default", "aten.select.int")


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (10**9, [(256, 8), (1024, 8), (4096, 8)]),  # never more slots than sequences
        (16384, [(256, 8), (1024, 5), (4096, 2)]),
        (4096, [(4096, 1)]),  # any request that the context permits is served
        (700, [(700, 1)]),
        (1500, [(1024, 0), (256, 0), (1500, 1)]),
    ],
)
def test_positions_are_divided_into_slots(positions, expected):
    classes = divide_positions(positions, 4096, 8)
    assert [(c.length, c.count) for c in classes] == [pair for pair in expected if pair[1]]
    assert sum(c.length * c.count for c in classes) <= positions


def test_a_short_context_has_one_class():
    assert divide_positions(10**6, 200, 4) == (SlotClass(200, 4),)


def test_a_sequence_takes_the_lowest_free_slot_of_the_shortest_class_then_a_longer_one():
    pool = SlotPool([SlotClass(256, 2), SlotClass(1024, 1)])
    admission = SlotAdmission(pool)
    assert [admission.take(256) for _ in range(3)] == [Slot(0, 0), Slot(0, 1), Slot(1, 0)]
    pool.release(Slot(0, 1))
    pool.release(Slot(0, 0))
    assert SlotAdmission(pool).take(10) == Slot(0, 0)


def test_short_sequences_pass_a_long_one_that_waits_but_take_no_slot_that_it_could_use():
    pool = SlotPool([SlotClass(256, 1), SlotClass(1024, 2)])
    before = SlotAdmission(pool)
    long = [before.take(1000), before.take(1000)]
    round_of_admissions = SlotAdmission(pool)
    assert round_of_admissions.take(1000) is None
    pool.release(long[0])
    assert round_of_admissions.take(100) == Slot(0, 0)
    assert round_of_admissions.take(100) is None
    assert SlotAdmission(pool).take(1000) == long[0]


def test_sizes_of_a_step_recur():
    lengths = [attended_length(n, 1024, few=True) for n in range(1, 1025)]
    assert all(length >= n for n, length in enumerate(lengths, 1))
    assert sorted(set(lengths)) == [128, 192, 256, 384, 512, 768, 1024]
    assert attended_length(193, 200, few=True) == 200
    assert [attended_length(n, 40, few=False) for n in (1, 16, 17, 33, 40)] == [16, 16, 32, 40, 40]
    assert [num_step_slots(highest, 12, few=True) for highest in (0, 1, 2, 4, 7, 8, 11)] == [1, 2, 4, 8, 8, 12, 12]
    assert num_step_slots(4, 12, few=False) == 5


def endless(loaded, *args, **settings):
    """A model whose answers run to max_tokens."""
    served = loaded(*args, **settings)
    served.engine._eos_token_ids = frozenset()
    return served


def tensors_of(engine):
    """Keys and values of each layer."""
    return [tensor for pair in engine._cache._layers for tensor in pair]


def first_slots_of(engine):
    """Keys and values of the first slot, for each layer."""
    return [engine._cache._of_class(tensor, 0)[0] for tensor in tensors_of(engine)]


async def test_a_join_and_a_leave_leave_the_caches_of_others_as_they_are(loaded):
    engine = loaded(max_batch_size=4).engine
    stays, leaves = engine.submit(request(BOS, 60, 61, max_tokens=40)), engine.submit(request(BOS, 70, max_tokens=40))
    engine.step()
    addresses = [tensor.data_ptr() for tensor in tensors_of(engine)]
    cached = [tensor.clone() for tensor in first_slots_of(engine)]
    leaves.abort()
    engine._plain_batch.remove_aborted()
    joins = engine.submit(request(BOS, 80, 81, 82, max_tokens=40))
    engine._plain_batch.decode = lambda: None
    engine.step()
    assert engine.num_running == 2
    assert [tensor.data_ptr() for tensor in tensors_of(engine)] == addresses
    assert all(map(torch.equal, cached, first_slots_of(engine)))
    assert (stays.slot.index, joins.slot.index) == (0, 1)


async def test_a_join_costs_the_same_in_any_batch_and_a_leave_nothing(loaded):
    engine = loaded(max_batch_size=8).engine
    engine._plain_batch.decode = lambda: None
    operations = []
    for _ in range(8):
        generation = engine.submit(request(BOS, 60, 61, max_tokens=20))
        operations.append(count_operations(engine.step).total)
    assert len(set(operations[1:])) == 1
    generation.abort()
    assert set(count_operations(engine.step).operators) == {*VIEWS, "aten.zero_.default"}  # of its own slot
    assert engine.num_running == 7
    ended = engine._plain_batch._decoding[0]
    ended.append_token(EOS)
    engine._plain_batch._remove([ended])
    assert count_operations(engine.step).total == 0
    assert engine.num_running == 6


async def test_a_step_of_the_shipped_model_takes_as_many_operations_for_32_sequences_as_for_1(loaded):
    counts = []
    for count in (1, 8, 32):
        engine = endless(loaded, LLAVA, max_batch_size=32, max_model_len=512).engine
        for i in range(count):
            engine.submit(request(BOS, *range(60, 70 + i), max_tokens=30))
        engine.step()
        assert engine.num_running == count
        counts.append(count_operations(engine.step))
        assert engine.num_running == count
    assert len({step.total for step in counts}) == 1
    assert [(step.reads, step.exports) for step in counts] == [(0, 1)] * 3  # all ids are read at once


async def test_a_sequence_that_needs_its_logits_does_not_change_the_reads_of_others(loaded):
    engine = loaded(max_batch_size=4).engine
    for options in ({}, {}, {"temperature": 1.0, "seed": 1}):
        engine.submit(request(BOS, 60, 61, max_tokens=20, **options))
    engine.step()
    assert count_operations(engine.step).exports == 1


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
async def test_rows_between_the_sequences_change_no_answer(loaded, attn_implementation):
    """As on a GPU: the rows of a step are a power of two, and slots of sequences that left compute as well."""
    expected = [await alone(loaded, mixed(i)) for i in range(len(MIXED))]
    few_sizes = Launching(few_sizes=True)
    engine = loaded(max_batch_size=8, attn_implementation=attn_implementation, launching=few_sizes).engine
    others = [engine.submit(request(BOS, 80 + i, max_tokens=200)) for i in range(2)]
    generations = [engine.submit(mixed(i)) for i in range(len(MIXED))]
    engine.step()
    for other in others:
        other.abort()
    run_dry(engine)
    for generation, (text, done) in zip(generations, expected, strict=True):
        got = await read(generation)
        assert (got[0], got[1].token_ids) == (text, done.token_ids)


async def test_slots_of_several_classes_decode_in_one_step(loaded):
    """A prompt of another length class, in the middle of the batch."""
    load = functools.partial(endless, loaded, LLAVA, max_model_len=1100, max_batch_size=4)
    requests = [
        {"ids": (BOS, 60, 61), "max_tokens": 12},
        {"ids": (BOS, *[70, 71, 72] * 100), "max_tokens": 8},
        {"ids": (BOS, *range(60, 90)), "max_tokens": 9},
        {"ids": (BOS, *[75, 76] * 520), "max_tokens": 8},
    ]

    def new(options):
        return request(*options["ids"], max_tokens=options["max_tokens"])

    expected = [await alone(load, new(options)) for options in requests]
    engine = load().engine
    generations = [engine.submit(new(options)) for options in requests]
    engine.step()
    assert [generation.slot.class_index for generation in generations] == [0, 1, 0, 2]
    run_dry(engine)
    for generation, (text, done) in zip(generations, expected, strict=True):
        got = await read(generation)
        assert (got[0], got[1].token_ids) == (text, done.token_ids)


async def test_a_sequence_without_a_free_slot_waits_and_is_answered_later(loaded):
    expected = [await alone(loaded, mixed(i)) for i in range(3)]
    engine = loaded(max_batch_size=8, kv_cache_gib=256 * POSITION_BYTES / GIB).engine
    generations = [engine.submit(mixed(i)) for i in range(3)]
    engine.step()
    assert (engine.num_running, engine.num_waiting) == (1, 2)
    run_dry(engine)
    for generation, (text, _) in zip(generations, expected, strict=True):
        assert (await read(generation))[0] == text


async def test_a_request_that_fits_into_no_slot_is_refused(loaded, monkeypatch):
    monkeypatch.setattr(cache_memory, "_FEWEST_POSITIONS", 10)
    engine = loaded(kv_cache_gib=100 * POSITION_BYTES / GIB).engine
    with pytest.raises(InvalidRequest, match=r"takes 103 positions.*longest slot has 100.*--kv-cache-gib") as caught:
        engine.submit(request(BOS, 60, 61, 62, max_tokens=100))
    assert caught.value.param == "max_tokens"
    with pytest.raises(InvalidRequest) as caught:
        engine.submit(request(BOS, *[60] * 120, max_tokens=1))
    assert caught.value.param == "input_ids"
    generation = engine.submit(request(BOS, 60, 61, 62, max_tokens=97))
    run_dry(engine)
    assert len((await read(generation))[1].token_ids) == 97


async def test_numbers_that_are_not_finite_do_not_outlive_their_sequence(loaded):
    """The next sequence of the slot attends over positions that it has not written, with weight 0."""
    expected = await alone(loaded, mixed(3))
    engine = loaded(max_batch_size=1).engine
    bad = engine.submit(request(BOS, IMAGE, features=np.full((9, 32), 3e38, np.float32)))
    good = engine.submit(mixed(3))
    run_dry(engine)
    with pytest.raises(InvalidRequest, match="beyond the numbers"):
        await anext(bad)
    assert (await read(good))[0] == expected[0]


async def test_slots_of_failed_sequences_are_free_again(loaded):
    """Before the prefill, in the prefill, in a step, and in the choice of a token."""
    engine = loaded(max_batch_size=2).engine
    forward = engine._model.causal_lm.forward

    def fails(*args, **kwargs):
        raise RuntimeError("no check foresaw this")

    async def submit_and_fail(before, after):
        engine._model.causal_lm.forward = before
        generations = [engine.submit(request(BOS, 60)) for _ in range(2)]
        engine.step()
        engine._model.causal_lm.forward = after
        run_dry(engine)
        for generation in generations:
            with pytest.raises(InternalError):
                _ = [event async for event in generation]

    bad = [engine.submit(request(BOS, IMAGE, features=np.ones((2, 7), np.float32))) for _ in range(2)]
    run_dry(engine)
    assert all(generation.failed for generation in bad)
    await submit_and_fail(fails, fails)
    await submit_and_fail(forward, fails)
    engine._model.causal_lm.forward = forward
    generations = [engine.submit(mixed(i)) for i in range(2)]
    engine.step()
    assert [generation.slot for generation in generations] == [Slot(0, 0), Slot(0, 1)]


async def test_a_sliding_window_hides_old_positions_of_every_sequence(tokenizer, tmp_path, loaded):
    model = make_llava(tokenizer.get_vocab_size(), text_config=functools.partial(MistralConfig, sliding_window=5))
    folder = save(model, tmp_path, tokenizer)
    prompts = [[BOS, *range(60, 60 + count)] for count in (3, 20, 9)]
    engine = loaded(folder, max_batch_size=4).engine
    generations = [engine.submit(request(*ids, max_tokens=12)) for ids in prompts]
    run_dry(engine)
    for ids, generation in zip(prompts, generations, strict=True):
        output = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=12, do_sample=False, pad_token_id=3)
        assert (await read(generation))[1].token_ids == output[0, len(ids) :].tolist()


def test_the_log_states_the_slots_and_the_refusal_of_longer_requests(loaded, caplog):
    caplog.set_level(logging.INFO)
    loaded(max_batch_size=3, kv_cache_gib=600 * POSITION_BYTES / GIB)
    assert "GiB of at most 0.000429; slots: 2 of 256 positions" in caplog.text
    assert "are refused" not in caplog.text
    loaded(LLAVA, max_batch_size=3, kv_cache_gib=0.01)
    assert "requests of more than 1048 positions are refused, although the context has 2048" in caplog.text


def test_a_cache_that_cannot_serve_or_is_not_free_is_refused_at_start(loaded, monkeypatch):
    with pytest.raises(CheckpointError, match=r"holds 100 positions; at least 256 are needed.*--kv-cache-gib"):
        loaded(kv_cache_gib=100 * POSITION_BYTES / GIB)
    monkeypatch.setattr(cache_memory, "available_memory", lambda: 1000 * POSITION_BYTES)
    with pytest.raises(CheckpointError, match="GiB are free on cpu"):
        loaded(kv_cache_gib=1)
    assert loaded().engine._slots.longest == 256  # the default takes half: 500 positions
    monkeypatch.setattr(cache_memory, "available_memory", lambda: None)
    with pytest.raises(CheckpointError, match="does not say how much memory is free"):
        loaded()


def layered(*ids, count, **sampling):
    """A request that reports attention, and therefore runs layer by layer."""
    options = request(*ids, features=np.ones((count, 32), np.float32), **sampling)
    return dataclasses.replace(options, cross_attention=CrossAttention())


async def test_layered_sequences_share_the_slots_with_others(loaded):
    expected = [await alone(loaded, layered(BOS, IMAGE, count=4)), await alone(loaded, request(BOS, 60, max_tokens=20))]
    engine = loaded(max_batch_size=4, kv_cache_gib=512 * POSITION_BYTES / GIB).engine
    long, plain = engine.submit(layered(BOS, IMAGE, count=4)), engine.submit(request(BOS, 60, max_tokens=20))
    waits = engine.submit(layered(BOS, IMAGE, count=4))
    engine.step()
    assert (engine.num_running, engine.num_waiting) == (2, 1)
    assert (long.slot, plain.slot) == (Slot(0, 0), Slot(0, 1))
    run_dry(engine)
    for generation, (text, done) in zip((long, plain, waits), (*expected, expected[0]), strict=True):
        got = await read(generation)
        assert (got[0], got[1].cross_attention) == (text, done.cross_attention)


async def test_a_layered_request_beyond_the_slots_is_refused(loaded, monkeypatch):
    monkeypatch.setattr(cache_memory, "_FEWEST_POSITIONS", 10)
    engine = loaded(kv_cache_gib=100 * POSITION_BYTES / GIB).engine
    with pytest.raises(InvalidRequest, match="longest slot has 100"):
        engine.submit(layered(BOS, IMAGE, count=90, max_tokens=20))


def test_the_positions_of_taken_slots_are_counted():
    pool = SlotPool([SlotClass(256, 2), SlotClass(1024, 1)])
    admission = SlotAdmission(pool)
    assert (pool.num_positions, pool.num_taken) == (1536, 0)
    slots = [admission.take(256), admission.take(1000)]
    assert pool.num_taken == 1280
    for slot in slots:
        pool.release(slot)
    assert pool.num_taken == 0
