"""Graphs of the encoder with a stand-in for CUDA: buckets, padding, copying out, and captures that are wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from encoder_service import metrics
from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.feature_cache import FeatureCache
from encoder_service.engine.graphs import encoder_graphs
from encoder_service.engine.graphs.bucketed import Bucketed
from encoder_service.engine.graphs.encoder_graphs import EncoderGraphs, batch_sizes
from encoder_service.engine.request_media import EncodeRequest
from encoder_service.models import load
from encoder_service.models.base import LoadOptions
from encoder_service.pruners import PRUNERS
from fovea import telemetry
from fovea.budget import Budget
from fovea.modeling.capture import Captured, Compute, StandInCapture, agrees

KEEP = 6
TEXT = (98, 5, 17, 40, 99)


class CountingCapture:
    """Stand-in that counts replays, and can capture something wrong."""

    def __init__(self, wrong: float = 0.0) -> None:
        self.replays = 0
        self.captures = 0
        self._wrong = wrong
        self._capture = StandInCapture()

    @property
    def nbytes(self) -> int:
        return self._capture.nbytes

    def __call__(self, compute: Compute) -> Captured:
        self.captures += 1
        captured, counting = self._capture(compute), self

        class Counted:
            outputs = captured.outputs

            def replay(self) -> None:
                counting.replays += 1
                captured.replay()
                for output in captured.outputs:
                    if output.is_floating_point():
                        output.add_(counting._wrong)

        return Counted()


@pytest.fixture
def towers(checkpoints: Any) -> Any:
    """A model of its own, since graphs change how its towers run."""
    return load(str(checkpoints.hub), LoadOptions(text_tower=str(checkpoints.clip), device="cpu"))


@pytest.fixture
def ask(make_image: Callable[..., bytes]) -> Callable[..., EncodeRequest]:
    def request(image: int, pruner: str = "desap", text: Sequence[int] = TEXT, keep: int = KEEP) -> EncodeRequest:
        return EncodeRequest((make_image(image),), tuple(text), PRUNERS[pruner].bind({}), Budget.count(keep))

    return request


def engine_of(towers: Any, graphs: EncoderGraphs | None = None, cache_bytes: int = 0) -> EncoderEngine:
    run = {} if graphs is None else {"run_pruner": graphs.prune}
    limits = {"max_batch_size": 4, "max_image_bytes": 2**20, "max_image_pixels": 1_000_000}
    return EncoderEngine(towers, FeatureCache(cache_bytes), **limits, **run)  # type: ignore[arg-type]


def answers(engine: EncoderEngine, requests: Sequence[EncodeRequest]) -> list[Any]:
    outcomes = engine.run([engine.prepare(request) for request in requests])
    for outcome in outcomes:
        assert not isinstance(outcome, Exception), outcome
    return [media for outcome in outcomes if not isinstance(outcome, Exception) for media in outcome]


def with_graphs(towers: Any, capture: CountingCapture) -> EncoderGraphs:
    graphs = EncoderGraphs(towers, KEEP, 4)
    graphs.capture(capture)
    capture.replays = 0
    return graphs


def test_replays_give_the_answers_of_a_service_without_graphs(towers: Any, ask: Any) -> None:
    texts = [(98, *range(3, 3 + length), 99) for length in (1, 4, 2, 9, 14, 3)]
    batches = [
        [ask(0)],
        [ask(i, text=text) for i, text in enumerate(texts[:3])],
        [ask(i, pruner, text) for i, (pruner, text) in enumerate(zip(("desap", "fovea") * 2, texts, strict=False))],
        [ask(i) for i in range(6)],  # the tower runs twice
        [ask(0, "cls"), ask(1, "none"), ask(2, keep=7), ask(3, text=(98, *range(40), 99)), ask(4, text=())],
    ]
    wanted = [answers(engine_of(towers), batch) for batch in batches]
    capture = CountingCapture()
    engine = engine_of(towers, with_graphs(towers, capture))
    for batch, want in zip(batches, wanted, strict=True):
        for got, one in zip(answers(engine, batch), want, strict=True):
            assert got.positions.tolist() == one.positions.tolist()
            assert got.cluster_of_patch.tolist() == one.cluster_of_patch.tolist()
            np.testing.assert_allclose(got.features, one.features, atol=1e-4, rtol=1e-4)
    assert capture.replays > 0


def test_a_question_replays_three_graphs_and_another_about_the_same_image_two(towers: Any, ask: Any) -> None:
    capture = CountingCapture()
    engine = engine_of(towers, with_graphs(towers, capture), cache_bytes=2**24)
    answers(engine, [ask(0)])
    assert capture.replays == 3
    answers(engine, [ask(0, text=(98, 3, 99))])
    assert capture.replays == 5


def test_other_pruners_parameters_and_budgets_are_computed_without_the_pruners_graph(towers: Any, ask: Any) -> None:
    capture = CountingCapture()
    engine = engine_of(towers, with_graphs(towers, capture))
    answers(engine, [ask(0, "uniform")])
    assert capture.replays == 0
    answers(engine, [ask(0, keep=KEEP + 1)])
    assert capture.replays == 2  # both towers


def test_a_graph_whose_output_differs_does_not_serve(towers: Any, ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    (want,) = answers(engine_of(towers), [ask(0)])
    before = telemetry.FAILURES.labels("cuda_graph")._value.get()
    capture = CountingCapture(wrong=1e-2)
    with caplog.at_level(logging.WARNING):
        graphs = with_graphs(towers, capture)
    (got,) = answers(engine_of(towers, graphs), [ask(0)])
    assert (graphs.num_graphs, capture.replays) == (0, 0)
    assert np.array_equal(got.features, want.features)
    assert len([record for record in caplog.records if "without a graph" in record.message]) == 1
    assert telemetry.FAILURES.labels("cuda_graph")._value.get() == before + capture.captures


def test_a_capture_that_fails_leaves_the_service_as_it_was(towers: Any, ask: Any) -> None:
    class Failing(CountingCapture):
        def __call__(self, compute: Compute) -> Captured:
            raise RuntimeError("out of memory")

    graphs = with_graphs(towers, Failing())
    assert graphs.num_graphs == 0
    assert len(answers(engine_of(towers, graphs), [ask(0)])[0].positions) == KEEP


def test_graphs_are_bounded_in_number_and_time_and_reported(towers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_graphs, "MAX_GRAPHS", 5)
    capture = CountingCapture()
    assert with_graphs(towers, capture).num_graphs == capture.captures == 5
    assert metrics.CUDA_GRAPHS._value.get() == 5
    assert metrics.CUDA_GRAPH_BYTES._value.get() == capture.nbytes > 0
    monkeypatch.setattr(encoder_graphs, "_CAPTURE_S", -1.0)
    assert with_graphs(towers, CountingCapture()).num_graphs == 0


@pytest.mark.parametrize("largest", [1, 2, 7, 8, 32, 1000])
def test_all_graphs_of_a_service_are_within_the_bound(largest: int) -> None:
    sizes = batch_sizes(largest)
    assert sizes[0] == 1
    assert sizes[-1] == largest
    functions = 1 + 2 + len(encoder_graphs.GRAPHED_PRUNERS)  # tower, texts of two lengths, pruners
    assert len(sizes) * functions <= encoder_graphs.MAX_GRAPHS


def doubled(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * values, counts + 1


def bucketed(*sizes: int) -> Bucketed:
    function = Bucketed(doubled, lambda size: (torch.randn(size, 3), torch.arange(size)))
    for size in sizes:
        assert function.add(size, StandInCapture())
    return function


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_batch_is_padded_to_the_next_bucket_and_its_outputs_are_its_own(size: int) -> None:
    function = bucketed(4, 1)
    assert function.sizes == [1, 4]
    values, counts = torch.randn(size, 3), torch.arange(size)
    first = function(values, counts)
    second = function(torch.zeros(size, 3), counts)  # into the same memory
    assert first is not None
    assert second is not None
    assert torch.equal(first[0], 2 * values)
    assert torch.equal(first[1], counts + 1)
    assert torch.equal(second[0], torch.zeros(size, 3))


def test_a_batch_that_no_bucket_holds_is_left_to_the_function() -> None:
    function = bucketed(1, 2)
    assert function(torch.randn(3, 3), torch.arange(3)) is None
    assert function(torch.randn(1, 4), torch.arange(1)) is None
    assert function(torch.randn(1, 3).double(), torch.arange(1)) is None
    assert bucketed()(torch.randn(1, 3), torch.arange(1)) is None


def test_equality_is_exact_for_whole_numbers_and_relative_for_floats() -> None:
    values, half = torch.tensor([1000.0, 1.0]), torch.tensor([1000.0, 1.0]).half()
    assert agrees([values + 5e-3], [values])
    assert not agrees([values + 5e-2], [values])
    assert agrees([half + 5], [half])
    assert not agrees([half + 20], [half])
    assert not agrees([torch.tensor([1, 2])], [torch.tensor([1, 3])])
    assert not agrees([torch.tensor([torch.nan])], [torch.tensor([1.0])])


def test_compiled_layers_give_the_same_features(checkpoints: Any, towers: Any) -> None:
    other = load(str(checkpoints.hub), LoadOptions(text_tower=str(checkpoints.clip), device="cpu"))
    other.vision_tower.compile_layers(backend="eager")  # type: ignore[attr-defined]
    side = towers.vision_tower.vision_model.config.image_size
    with torch.inference_mode():
        for size in (1, 3):
            pixels = torch.randn(size, 3, side, side)
            (got,), (want,) = (one.vision_tower.compute(pixels, ()) for one in (other, towers))  # type: ignore[attr-defined]
            torch.testing.assert_close(got, want)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs_equal_the_functions(checkpoints: Any) -> None:
    from fovea.modeling.capture import CudaCapture

    towers = load(str(checkpoints.hub), LoadOptions(text_tower=str(checkpoints.clip), device="cuda"))
    graphs = EncoderGraphs(towers, KEEP, 4)  # type: ignore[arg-type]
    graphs.capture(CudaCapture(towers.device))
    assert graphs.num_graphs == 15
