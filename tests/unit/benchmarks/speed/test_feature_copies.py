"""Copies of visual tokens on their way to the language model: the benchmark, and a bound on each stage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.speed import feature_copies
from tests.documented import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or shutil.which(os.environ.get("CC", "cc")) is None,
        reason="counting needs Linux and a C compiler",
    ),
]

# A message that is an argument, or that `extend` takes, would be serialized and parsed: up to five copies, not one.
COPIES = {
    "write": 4,  # to bytes, into Tensor, into VisualTokens, into EncodeResponse
    "gateway parses": 1,
    "gateway passes on": 1,
    "LLM service parses": 1,
    "LLM service reads": 1,  # out of the message; the conversion to float32 is not a memcpy
}


def test_each_stage_copies_the_features_no_more_often_than_it_did(tmp_path: Path) -> None:
    counter = feature_copies.build_counter(tmp_path)
    environment = {**os.environ, "LD_PRELOAD": str(counter), "PYTHONPATH": str(ROOT)}
    child = [sys.executable, str(Path(__file__).with_name("feature_stages.py"))]
    done = subprocess.run(child, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {stage: round(copies) for stage, copies in found.items()} == COPIES


def test_copies_are_what_more_tokens_add() -> None:
    few = {service: Counter({("protobuf", "f"): 1000}) for service in ("encoder_service", "gateway", "llm_service")}
    many = {service: Counter({("protobuf", "f"): 1000, ("gRPC", "g"): 400}) for service in few}
    many["gateway"]["protobuf", "f"] += 600
    found = feature_copies.copies(few, many, 200)
    assert found["gateway"] == {"gRPC": {"g": 2.0}, "protobuf": {"f": 3.0}}
    assert found["llm_service"]["protobuf"] == {"f": 0.0}


def test_the_three_services_are_counted(tmp_path: Path) -> None:
    assert feature_copies.main(["--smoke", "--out", str(tmp_path)]) == 0
    copies = json.loads((tmp_path / "feature_copies.json").read_text())["copies"]
    assert list(copies) == ["encoder_service", "gateway", "llm_service"]
    assert all(sum(libraries["protobuf"].values()) >= 1 for libraries in copies.values())
