"""The description of a pruner on its way from a service to the gateway."""

from __future__ import annotations

import pytest

from encoder_service.pruners import PRUNERS
from fovea.pruner_spec import PrunerSpec
from fovea.v1 import pruner_pb2
from fovea.wire.pruner_info import read_specs, write_spec
from llm_service.pruners import PRUNERS as LLM_PRUNERS

SPECS = [pruner.spec for pruner in (*PRUNERS.values(), *LLM_PRUNERS.values())]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_gateway_reads_what_the_service_has_written(spec: PrunerSpec) -> None:
    message = pruner_pb2.PrunerInfo.FromString(write_spec(spec).SerializeToString())
    (read,) = read_specs([message], "encoder service")
    assert read == spec
    for got, sent in zip(read.parameters, spec.parameters, strict=True):
        assert type(got.default) is type(sent.default)


def test_a_pruner_of_a_side_that_only_later_versions_know_is_left_out() -> None:
    known, other = write_spec(SPECS[0]), pruner_pb2.PrunerInfo(name="x", side="projector")
    assert read_specs([other, known], "encoder service") == (SPECS[0],)
