"""The methods of the language side against golden data of the methods' released code, in two precisions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks.exactness.golden.case import Context, compare, load_cases
from benchmarks.exactness.golden.llm_side import METHODS

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[4] / "golden"
CASES = {case.id: case for case in load_cases(GOLDEN) if case.method in METHODS}


@pytest.fixture(scope="module", params=["float64", "float32"])
def precision(request):
    return request.param


@pytest.fixture(scope="module")
def context(precision):
    return Context(GOLDEN, getattr(torch, precision))


def run(case, context):
    with torch.inference_mode():
        return METHODS[case.method](case, context)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_case(case, context, precision):
    worst = compare(case, run(case, context), precision)
    assert worst.passed, worst


def test_every_method_has_a_case():
    assert {case.method for case in CASES.values()} == METHODS.keys()


@pytest.mark.parametrize("id", ["fastv_layer2_keep30", "sparsevlm_64", "v2drop_64", "pyramiddrop_64", "llm_unpruned"])
def test_a_parameter_that_is_not_known_is_an_error(id, context):
    case = dataclasses.replace(CASES[id], params={**CASES[id].params, "temperature": 3})
    with pytest.raises(ValueError, match="unknown parameters temperature"):
        run(case, context)


def test_other_counts_than_expected_do_not_pass(context, precision):
    case = CASES["fastv_layer2_keep30"]
    wrong = dataclasses.replace(case, params={**case.params, "keep": 31})
    assert not compare(case, run(wrong, context), precision).passed
