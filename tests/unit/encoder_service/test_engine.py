"""The engine on a tiny model: batches, the feature cache, isolation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY

from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.feature_cache import FeatureCache, FeatureKey
from encoder_service.engine.request_media import EncodeRequest
from encoder_service.models import load
from encoder_service.models.base import LoadOptions
from encoder_service.models.media_features import MediaFeatures, PatchLayout, TowerInputs
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunerInput, TowerFeatures
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import KEYS, SALIENCY_LAST, OutputKind, TowerOutput
from fovea import telemetry
from fovea.budget import Budget

TEXT = (98, 5, 17, 40, 99)


class CountingModel:
    """A real model that records its forwards."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.forwards: list[tuple[int, frozenset[TowerOutput]]] = []
        self.texts = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(
        self, inputs: Sequence[TowerInputs], outputs: frozenset[TowerOutput], in_tower: InTowerPruner | None = None
    ) -> list[MediaFeatures]:
        self.forwards.append((len(inputs), outputs))
        return self._model.encode(inputs, outputs, in_tower)

    def encode_texts(self, texts: Sequence[Sequence[int]], **options: Any) -> Any:
        self.texts += 1
        return self._model.encode_texts(texts, **options)


@pytest.fixture
def counting(model: Any) -> CountingModel:
    return CountingModel(model)


@pytest.fixture
def ask(make_image: Callable[..., bytes]) -> Callable[..., EncodeRequest]:
    def request(*images: int, pruner: str = "desap", text: tuple[int, ...] = TEXT, **params: Any) -> EncodeRequest:
        budget = Budget.count(params.pop("keep_tokens", 6))
        files = tuple(make_image(i) for i in images)
        return EncodeRequest(files, text, PRUNERS[pruner].bind(params), budget)

    return request


def compute(engine: EncoderEngine, *requests: EncodeRequest) -> list[Any]:
    return engine.run([engine.prepare(request) for request in requests])


def assert_same(got: Any, want: Any) -> None:
    assert got.positions.tolist() == want.positions.tolist()
    assert got.cluster_of_patch.tolist() == want.cluster_of_patch.tolist()
    np.testing.assert_allclose(got.features, want.features, atol=1e-4, rtol=1e-5)


def test_a_request_has_the_same_result_in_a_batch_as_alone(make_engine: Any, ask: Any) -> None:
    requests = [
        ask(0),
        ask(1, pruner="cls"),
        ask(2, text=(98, 3, 99)),
        ask(3, pruner="random"),
        ask(4, pruner="none", text=()),
        ask(5, 6, text_filter="eot_attention", keep_tokens=9),
        ask(0, text=(98, *range(40), 99), attn_variant="kkv"),
        *(ask(i, 7, pruner=name) for i, name in enumerate(PRUNERS) if name != "desap"),
        ask(0, 1, pruner="flowcut", keep_tokens=20),
        ask(2, pruner="flowcut", keep_tokens=36),
    ]
    together = compute(make_engine(), *requests)
    for request, batched in zip(requests, together, strict=True):
        (alone,) = compute(make_engine(), request)
        assert len(batched) == len(request.images)
        for got, want in zip(batched, alone, strict=True):
            assert_same(got, want)


def test_one_forward_computes_a_batch_and_only_the_required_outputs(
    make_engine: Any, ask: Any, counting: CountingModel
) -> None:
    compute(make_engine(towers=counting), ask(0), ask(1, text=(98, 3, 99)), ask(2))
    assert counting.forwards == [(3, frozenset({TowerOutput(OutputKind.JOINT, qkv="qqv"), SALIENCY_LAST}))]
    assert counting.texts == 1


def test_the_same_image_in_two_questions_goes_through_the_tower_once(
    make_engine: Any, ask: Any, counting: CountingModel
) -> None:
    first, second = compute(make_engine(towers=counting), ask(0), ask(0, text=(98, 3, 99), pruner="cls"))
    assert [count for count, _ in counting.forwards] == [1]
    assert not first[0].features_cached
    assert not second[0].features_cached


def test_a_second_question_runs_neither_tower_nor_decoder(make_engine: Any, ask: Any, counting: CountingModel) -> None:
    engine = make_engine(towers=counting)
    compute(engine, ask(0))
    prepared = engine.prepare(ask(0, text=(98, 3, 99)))
    assert prepared[0].tower_inputs is None
    (second,) = engine.run([prepared])
    assert second[0].features_cached
    assert len(counting.forwards) == 1
    (fresh,) = compute(make_engine(), ask(0, text=(98, 3, 99)))
    assert_same(second[0], fresh[0])


def test_tenants_share_no_features_of_an_image(make_engine: Any, ask: Any, counting: CountingModel) -> None:
    """Not in one batch either, whose time would tell; the tokens are those of a request without a salt."""
    engine = make_engine(towers=counting)

    def of(tenant: str) -> EncodeRequest:
        return dataclasses.replace(ask(0, pruner="random"), cache_salt=tenant)

    together = compute(engine, of("a"), of("b"), of("a"))
    assert [count for count, _ in counting.forwards] == [2]
    again = compute(engine, of("a"), of("b"), of("c"), of(""))
    cached = [answer[0].features_cached for answer in (*together, *again)]
    assert cached == [False, False, False, True, True, False, False]
    (unsalted,) = compute(make_engine(), ask(0, pruner="random"))
    for answer in (*together, *again):
        assert_same(answer[0], unsalted[0])


def test_an_image_whose_features_are_cached_while_it_waits_runs_no_tower(
    make_engine: Any, ask: Any, counting: CountingModel
) -> None:
    engine = make_engine(towers=counting)
    waiting = engine.prepare(ask(0, text=(98, 3, 99)))
    compute(engine, ask(0))
    (answer,) = engine.run([waiting])
    assert answer[0].features_cached
    assert len(counting.forwards) == 1


def test_cached_features_serve_every_pruner_that_they_cover(
    make_engine: Any, ask: Any, counting: CountingModel
) -> None:
    engine = make_engine(towers=counting)
    compute(engine, ask(0))
    for pruner in ("cls", "random", "none"):
        (answer,) = compute(engine, ask(0, pruner=pruner))
        assert answer[0].features_cached
    (other,) = compute(engine, ask(0, attn_variant="vvv"))
    assert not other[0].features_cached
    (again,) = compute(engine, ask(0))
    assert again[0].features_cached  # the outputs of both are kept


@pytest.mark.parametrize("name", sorted(PRUNERS))
@pytest.mark.parametrize("keep_tokens", [1, 2, 6, 35, 36, 100])
def test_every_pruner_sends_what_the_language_model_accepts(
    name: str, keep_tokens: int, make_engine: Any, ask: Any
) -> None:
    """Different positions inside the grid, one a token, as many as the budget."""
    (answer,) = compute(make_engine(), ask(3, pruner=name, keep_tokens=keep_tokens))
    positions = answer[0].positions.tolist()
    assert len(set(positions)) == len(positions)
    assert set(positions) <= set(range(36))
    assert len(positions) == len(answer[0].features) == (36 if name == "none" else min(keep_tokens, 36))
    assert np.isfinite(answer[0].features).all()
    assert answer[0].cluster_of_patch.shape == (36,)


@pytest.mark.parametrize("name", sorted(PRUNERS))
def test_tokens_are_sent_in_the_order_in_which_the_pruner_emits_them(name: str, make_engine: Any, ask: Any) -> None:
    request, emitted = ask(3, pruner=name, keep_tokens=9), []

    def prune(job: PrunerInput, params: Any) -> Any:
        emitted.append(request.pruner.prune(job))
        return emitted[0]

    watched = dataclasses.replace(PRUNERS[name], prune=prune).bind({})
    (answer,) = compute(make_engine(), dataclasses.replace(request, pruner=watched))
    np.testing.assert_array_equal(answer[0].features, emitted[0].features[0].numpy())
    np.testing.assert_array_equal(answer[0].cluster_of_patch, emitted[0].cluster_of_patch[0].numpy())
    for sent, own in zip(answer[0].positions.tolist(), emitted[0].origins[0].tolist(), strict=True):
        assert sent == own or own < 0


@pytest.mark.parametrize("name", sorted(PRUNERS))
def test_every_pruner_takes_the_features_of_a_tower_in_half_precision(
    name: str, make_engine: Any, ask: Any, checkpoints: Any
) -> None:
    options = LoadOptions(text_tower=str(checkpoints.clip), device="cpu", dtype="bfloat16")
    (answer,) = compute(make_engine(towers=load(str(checkpoints.hub), options)), ask(3, pruner=name))
    assert not isinstance(answer, Exception), answer
    assert answer[0].features.dtype == np.float32
    assert np.isfinite(answer[0].features).all()
    assert len(answer[0].features) == (36 if name == "none" else 6)


def test_features_of_a_tower_that_is_pruned_inside_are_cached_separately(
    make_engine: Any, ask: Any, counting: CountingModel
) -> None:
    engine = make_engine(towers=counting)
    whole, six = ask(0, pruner="none"), ask(0, pruner="flowcut", keep_tokens=6)
    seven, again = ask(0, pruner="flowcut", keep_tokens=7), ask(0, pruner="flowcut", keep_tokens=6)
    for request in (whole, six, seven):
        (answer,) = compute(engine, request)
        assert not answer[0].features_cached
    (cached,) = compute(engine, again)
    assert cached[0].features_cached
    assert len(cached[0].positions) == 6
    (fresh,) = compute(make_engine(), again)
    assert_same(cached[0], fresh[0])
    (unpruned,) = compute(engine, whole)
    assert unpruned[0].features_cached
    assert len(unpruned[0].positions) == 36


def test_images_that_a_tower_prunes_alike_share_its_forward(
    make_engine: Any, ask: Any, counting: CountingModel
) -> None:
    requests = [ask(0, 1, pruner="flowcut"), ask(2, pruner="flowcut"), ask(0, pruner="cls"), ask(0, pruner="none")]
    compute(make_engine(towers=counting), *requests)
    assert counting.forwards == [(3, frozenset()), (1, frozenset({SALIENCY_LAST}))]


def test_a_full_budget_prunes_nothing_inside_the_tower(make_engine: Any, ask: Any, counting: CountingModel) -> None:
    engine = make_engine(towers=counting)
    compute(engine, ask(0, pruner="none"))
    (answer,) = compute(engine, ask(0, pruner="flowcut", keep_tokens=36))
    assert answer[0].features_cached


def test_without_a_cache_every_question_runs_the_tower(make_engine: Any, ask: Any, counting: CountingModel) -> None:
    engine = make_engine(towers=counting, cache_bytes=0)
    for _ in range(2):
        (answer,) = compute(engine, ask(0))
        assert not answer[0].features_cached
    assert len(counting.forwards) == 2


def test_a_forward_has_at_most_max_batch_size_images(make_engine: Any, ask: Any, counting: CountingModel) -> None:
    (answer,) = compute(make_engine(towers=counting), ask(*range(6)))
    assert [count for count, _ in counting.forwards] == [4, 2]
    assert len(answer) == 6


def test_a_poisoned_image_fails_alone(make_engine: Any, ask: Any, counting: CountingModel) -> None:
    engine = make_engine(towers=counting)
    good, bad = engine.prepare(ask(0)), engine.prepare(ask(1))
    tower_inputs = good[0].tower_inputs
    tower_inputs = dataclasses.replace(tower_inputs, pixels=tower_inputs.pixels[:, :, 1:])  # a row is missing
    bad = (dataclasses.replace(bad[0], tower_inputs=tower_inputs),)
    before = telemetry.FAILURES.labels("encoder_batch")._value.get()
    first, second, third = engine.run([good, bad, engine.prepare(ask(2))])
    assert isinstance(second, ValueError)
    (want,), (other,) = compute(make_engine(), ask(0)), compute(make_engine(), ask(2))
    assert_same(first[0], want[0])
    assert_same(third[0], other[0])
    assert telemetry.FAILURES.labels("encoder_batch")._value.get() == before + 1


def test_a_pruner_that_fails_fails_alone(make_engine: Any, ask: Any) -> None:
    def explode(job: PrunerInput, params: Any) -> Any:
        raise ZeroDivisionError

    pruner = dataclasses.replace(PRUNERS["none"], name="broken", prune=explode).bind({})
    broken = EncodeRequest(ask(1).images, TEXT, pruner, Budget.count(3))
    first, second = compute(make_engine(), ask(0), broken)
    assert len(first[0].positions) == 6
    assert isinstance(second, ZeroDivisionError)


def test_a_budget_that_cannot_be_chosen_fails_alone(make_engine: Any, ask: Any) -> None:
    calls = []

    def choose(job: PrunerInput, params: Any) -> list[int]:
        calls.append(job.vision.num_inputs)
        if 2.0**40 in job.vision.hidden:
            raise ZeroDivisionError
        return [3] * job.vision.num_inputs

    bound = dataclasses.replace(PRUNERS["none"], name="choosing", prune=PRUNERS["cls"].prune, choose_keep=choose)
    cls = dataclasses.replace(bound, requirements=PRUNERS["cls"].requirements).bind({})
    engine = make_engine()
    prepared = [engine.prepare(EncodeRequest(ask(image).images, TEXT, cls, Budget.auto())) for image in range(3)]
    compute(engine, ask(1, pruner="cls"))  # the features of image 1 are in the cache, and then made odd
    key = prepared[1][0].key
    with torch.inference_mode():
        engine._cache.get(key, frozenset()).batch.hidden[0, 0, 0] = 2.0**40
    first, second, third = engine.run(prepared)
    assert isinstance(second, ZeroDivisionError)
    assert [len(answer[0].positions) for answer in (first, third)] == [3, 3]
    assert calls == [3, 1, 1, 1]


def test_a_large_group_is_pruned_in_parts_with_the_same_result(
    make_engine: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [ask(i, text=(98, *range(3, 4 + i), 99)) for i in range(4)]
    whole = compute(make_engine(), *requests)
    seen = []

    def watch(job: PrunerInput, params: Any) -> Any:
        seen.append(job.vision.num_inputs)
        return PRUNERS["desap"].prune(job, params)

    watched = dataclasses.replace(PRUNERS["desap"], prune=watch).bind({})
    monkeypatch.setattr("encoder_service.engine.unit_batches._MAX_VALUES", 1)
    parts = compute(make_engine(), *(dataclasses.replace(request, pruner=watched) for request in requests))
    assert seen == [1] * 4
    for (got,), (want,) in zip(parts, whole, strict=True):
        assert_same(got, want)


def test_long_questions_do_not_pad_the_short_ones(make_engine: Any, ask: Any, counting: CountingModel) -> None:
    engine = make_engine(towers=counting)
    long = (98, *([5] * 200), 99)
    answers = compute(engine, ask(0), ask(1, text=long), ask(2))
    assert counting.texts == 2
    (alone,) = compute(make_engine(), ask(1, text=long))
    assert_same(answers[1][0], alone[0])


def test_an_answer_cannot_change_the_cached_features(make_engine: Any, ask: Any) -> None:
    engine = make_engine()
    compute(engine, ask(0, pruner="none"))
    (answer,) = compute(engine, ask(0, pruner="none"))
    with pytest.raises(ValueError, match="read-only"):
        answer[0].features[0, 0] = 1.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_waits_for_the_gpu_before_the_copy_that_ends_a_batch(
    make_engine: Any, ask: Any, checkpoints: Any
) -> None:
    options = LoadOptions(text_tower=str(checkpoints.clip), device="cuda")
    engine = make_engine(towers=load(str(checkpoints.hub), options))
    names = [name for name in PRUNERS if name not in ("flowcut",)]
    prepared = [engine.prepare(ask(i, pruner=name)) for i, name in enumerate(names)]
    engine.run(prepared)
    torch.cuda.set_sync_debug_mode("error")
    try:
        outcomes = engine.run(prepared)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]


@pytest.mark.parametrize("text", [(), (98, 99)])
def test_a_question_without_words_falls_back_to_saliency(text: tuple[int, ...], make_engine: Any, ask: Any) -> None:
    (empty,), (cls,) = compute(make_engine(), ask(0, text=text)), compute(make_engine(), ask(0, pruner="cls"))
    assert empty[0].positions.tolist() == cls[0].positions.tolist()
    assert empty[0].task_map is None


def features(num_bytes: int, *outputs: TowerOutput) -> MediaFeatures:
    batch = TowerFeatures(torch.zeros(1, num_bytes // 4, 1), (1, 1), {output: torch.zeros(1, 0) for output in outputs})
    return MediaFeatures(PatchLayout(1, 1, 1), batch, (0,))


def test_the_cache_evicts_the_oldest_first_and_stays_within_its_bytes() -> None:
    cache = FeatureCache(1000)
    for name in (b"a", b"b"):
        cache.put(FeatureKey(name), features(400))
    assert cache.get(FeatureKey(b"a"), frozenset()) is not None  # now b is the oldest
    cache.put(FeatureKey(b"c"), features(400))
    assert cache.get(FeatureKey(b"b"), frozenset()) is None
    assert cache.get(FeatureKey(b"a"), frozenset()) is not None
    assert cache.nbytes == 800
    cache.put(FeatureKey(b"huge"), features(2000))
    assert cache.get(FeatureKey(b"huge"), frozenset()) is None
    assert cache.nbytes == 800


def test_the_cache_returns_features_only_with_all_requested_outputs() -> None:
    cache = FeatureCache(1000)
    cache.put(FeatureKey(b"a"), features(40, KEYS))
    assert cache.get(FeatureKey(b"a"), frozenset({KEYS})) is not None
    assert cache.get(FeatureKey(b"a"), frozenset({KEYS, SALIENCY_LAST})) is None
    cache.put(FeatureKey(b"a"), features(40, SALIENCY_LAST))
    assert cache.get(FeatureKey(b"a"), frozenset({KEYS, SALIENCY_LAST})) is not None


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


def test_each_stage_is_measured_where_it_ran(make_engine: Any, ask: Any) -> None:
    def counts() -> list[float]:
        stages = ("tower", "text_tower", "pruning", "forward")
        return [sample(f"fovea_encoder_{stage}_seconds_count") for stage in stages] + [
            sample("fovea_encoder_batch_size_sum"),
            sample("fovea_cache_lookups_total", level="features", outcome="hit"),
            sample("fovea_cache_lookups_total", level="features", outcome="miss"),
        ]

    def added(before: list[float]) -> list[float]:
        return [now - then for now, then in zip(counts(), before, strict=True)]

    engine, before = make_engine(cache_bytes=2**24), counts()
    compute(engine, ask(0), ask(1))
    assert added(before) == [1, 1, 1, 1, 2, 0, 2]
    assert sample("fovea_encoder_feature_cache_bytes") > 0
    before = counts()
    compute(engine, ask(0, text=(98, 7, 99)))  # its features are cached
    assert added(before) == [0, 1, 1, 1, 1, 1, 0]
    before = counts()
    compute(engine, ask(0, pruner="none"))  # it reads no question
    assert added(before) == [0, 0, 1, 1, 1, 1, 0]


def test_the_stages_add_up_to_the_forward(make_engine: Any, ask: Any) -> None:
    names = [f"fovea_encoder_{stage}_seconds_sum" for stage in ("tower", "text_tower", "pruning")]
    before, total = sum(map(sample, names)), sample("fovea_encoder_forward_seconds_sum")
    compute(make_engine(), ask(0))
    assert 0 < sum(map(sample, names)) - before <= sample("fovea_encoder_forward_seconds_sum") - total
