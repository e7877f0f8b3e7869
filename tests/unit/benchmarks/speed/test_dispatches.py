"""Counts of the operations that the encoder's engine dispatches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.speed import dispatch_counts, dispatches
from benchmarks.speed.dispatch_counts import Counts, count_dispatches
from benchmarks.speed.dispatches_report import markdown
from benchmarks.speed.encoder_requests import Subject, shipped
from benchmarks.speed.kernel_launches import measure_launches
from encoder_service.engine.engine import EncoderEngine


@pytest.fixture(scope="module")
def subject() -> Subject:
    """The shipped model after its largest batch, since buffers that are kept grow once."""
    subject = shipped("cpu")
    count_dispatches(subject.engine(), subject.requests(32, "none"))
    return subject


class Runs(EncoderEngine):
    """An engine whose batch is one call of a function."""

    def __init__(self, run: Any) -> None:
        self._run = run

    @torch.inference_mode()
    def run(self, batch: Any) -> Any:
        self._run()
        return []


def counts_of(run: Any) -> Counts:
    return count_dispatches(Runs(run), [])


def test_each_operation_is_counted_once() -> None:
    one = torch.ones(3)
    counts = counts_of(lambda: (one + one).mul_(2))
    assert counts.operators == {"aten.add.Tensor": 1, "aten.mul_.Tensor": 1}
    assert (counts.total, counts.reads, counts.copies, counts.text()) == (2, 0, 0, "2")


@pytest.mark.parametrize(
    ("run", "reads"),
    [
        (lambda t: t[0].item(), 1),
        (lambda t: bool(t[0]), 1),
        (lambda t: t.nonzero(), 1),
        (lambda t: torch.equal(t, t), 1),
        (lambda t: t[t > 0], 1),
        (lambda t: t.index_put_((t > 0,), torch.zeros(())), 1),
        (lambda t: t[torch.tensor([0, 1])], 0),
        (lambda t: torch.nn.functional.one_hot(t.long(), 5), 0),
        (lambda t: torch.nn.functional.one_hot(t.long()), 1),
        (lambda t: torch.where(t > 0, t, 0.0), 0),
    ],
)
def test_reads_of_values_are_told_from_other_operations(run: Any, reads: int) -> None:
    values = torch.arange(4.0)
    assert counts_of(lambda: run(values)).reads == reads


def test_tensors_that_leave_torch_are_counted() -> None:
    values = torch.arange(4.0)
    counts = counts_of(lambda: (values.numpy(), values.tolist()))
    assert counts.exports == 2


def test_scripted_and_compiled_functions_are_counted_as_they_are_written() -> None:
    def written(x: torch.Tensor) -> torch.Tensor:
        return (x + 1).sin().cos()

    one = torch.ones(3)
    with pytest.warns(DeprecationWarning, match="jit"):
        scripted = torch.jit.script(written)
    compiled = torch.compile(written, backend="eager")
    compiled(one)
    expected = counts_of(lambda: written(one)).total
    assert expected == 3
    assert counts_of(lambda: scripted(one)).total == expected
    assert counts_of(lambda: compiled(one)).total == expected


@torch.library.custom_op("fovea_counted::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + x.cos()


def test_what_a_custom_operator_runs_is_counted_or_said_to_be_unknown() -> None:
    one = torch.ones(3)
    counts = counts_of(lambda: twice(one) + twice(one))
    assert counts.custom == {"fovea_counted.twice.default": 2}
    assert counts.inner["fovea_counted.twice.default"] >= 2 * 3
    assert counts.total == 3 + counts.inner["fovea_counted.twice.default"]
    assert not counts.is_lower_bound


def test_an_operator_that_shows_nothing_makes_the_count_a_lower_bound() -> None:
    counts = Counts({"mine.op.default": 2, "aten.add.Tensor": 1}, {}, 0, 0)
    assert counts.is_lower_bound
    assert counts.text() == "at least 3"


def test_a_batch_of_the_shipped_model_is_counted(subject: Subject) -> None:
    engine = subject.engine()
    counts = count_dispatches(engine, subject.requests(2, "desap"))
    assert counts.operators["aten.scaled_dot_product_attention.default"] >= 5
    assert counts.custom == {}
    again = count_dispatches(engine, subject.requests(2, "desap"))
    assert again == counts


# Measured with the versions of constraints.txt. Fewer are welcome; then the number here falls, too.
MOST_OPERATIONS = {
    "none": 145,
    "desap": 348,
    "visionzip": 251,
    "prumerge": 233,
    "prumerge_plus": 243,
    "holov": 244,
    "hired": 181,
    "cls": 201,
    "uniform": 179,
    "fovea": 479,  # 16 tokens, 7 operations each
    "random": 181,
    "cdpruner": 655,  # 16 tokens, 24 operations each
}


@pytest.mark.parametrize("pruner", MOST_OPERATIONS)
def test_32_images_dispatch_as_many_operations_as_one(pruner: str, subject: Subject) -> None:
    one, many = (count_dispatches(subject.engine(), subject.requests(count, pruner)) for count in (1, 32))
    own = 31 if pruner == "random" else 0  # a permutation of its own for each image
    assert one.total <= MOST_OPERATIONS[pruner]
    assert many.total <= one.total + own + 1  # one image alone may need no copy to be contiguous
    assert (one.reads, many.reads) == (0, 0)


@pytest.mark.parametrize(("pruner", "operations"), [("fovea", 7), ("cdpruner", 24)])
def test_a_token_takes_a_fixed_number_of_operations(pruner: str, operations: int, subject: Subject) -> None:
    few, more = (count_dispatches(subject.engine(), subject.requests(1, pruner, keep=keep)).total for keep in (10, 20))
    assert more - few == 10 * operations


def test_a_batch_of_two_pruners_takes_no_more_than_both(subject: Subject) -> None:
    desap, cls = subject.requests(4, "desap"), subject.requests(4, "cls", seed=7)
    apart = sum(count_dispatches(subject.engine(), requests).total for requests in (desap, cls))
    assert count_dispatches(subject.engine(), [*desap, *cls]).total <= apart


def test_the_cache_copies_each_tensor_of_an_image_once(subject: Subject) -> None:
    requests = subject.requests(8, "desap")
    counts = count_dispatches(subject.engine(2**28), requests)
    assert counts.copies == 8 * 3  # hidden states, task and saliency outputs


def test_the_error_of_a_request_is_raised(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = subject.engine()
    monkeypatch.setattr(engine, "run", lambda batch: [ValueError("broken")])
    with pytest.raises(ValueError, match="broken"):
        count_dispatches(engine, subject.requests(1, "none"))


def test_every_question_differs(subject: Subject) -> None:
    requests = subject.requests(9, "desap")
    assert len({request.images for request in requests}) == 9
    assert sorted(len(request.text_ids) for request in requests) == list(range(12, 21))


def test_the_report_has_ratios_copies_and_custom_operators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatches.main(["--smoke", "--pruners", "none", "--device", "cpu", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    result = json.loads((tmp_path / "dispatches.json").read_text())
    assert [subject["model"].split(",")[0] for subject in result["subjects"]] == [
        "shipped LLaVA",
        "tiny LLaVA-NeXT",
        "tiny Qwen2.5-VL",
        "tiny Qwen3-VL",
    ]
    text = markdown(result)
    assert "None ran" in text
    assert "Not measured" in text
    counts = result["subjects"][0]["rows"][0]["counts"]["2"]
    assert f"{counts['total']:,}" in text
    counts |= {"custom": {"mine.op.default": {"calls": 2, "inner": 6}}, "is_lower_bound": True}
    text = markdown(result)
    assert "| mine.op.default | 2 | 3.0 |" in text
    assert f"at least {counts['total']:,}" in text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_copies_and_waits_are_counted_on_a_gpu() -> None:
    ones = torch.ones(1000, device="cuda")
    launches = measure_launches(lambda: ((ones + 1) * 2).sum().item())
    assert launches["kernels"] >= 3
    assert launches["copies"] >= 1
    assert launches["waits"] >= 1


def test_counts_are_recorded_without_their_operators() -> None:
    recorded = dispatch_counts.recorded(Counts({"aten.clone.default": 2, "mine.op.default": 1}, {}, 1, 0))
    assert recorded["copies"] == 2
    assert recorded["custom"] == {"mine.op.default": {"calls": 1, "inner": 0}}
