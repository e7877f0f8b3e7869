"""Pruners of other packages in the real services: listed, used, and refused at start."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fovea.checkpoints.shipped import shipped_checkpoint
from tests.documented import ROOT
from tests.e2e.conftest import STARTUP_S, Client, Pictures
from tests.lab_stack import ENVIRONMENT, lab_stack
from tests.pruner_packages import install, project

QUESTION = "Is there a red star?"
LLM_MODULE = """
import dataclasses

from llm_service.pruners.fastv import PRUNER as FASTV

PRUNER = dataclasses.replace(FASTV, name="fastv_of_mine")
"""
LLM_ENTRY_POINTS = """
[project.entry-points."fovea.llm_pruners"]
fastv_of_mine = "my_llm_pruners:PRUNER"
"""


def documented_package() -> dict[str, str]:
    """Files of the package in the documentation, with an LLM pruner beside the one that it shows."""
    page = (ROOT / "docs/pruners.md").read_text()
    (module,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    (pyproject,) = re.findall(r"^```toml\n(.*?)^```$", page, re.M | re.S)
    pyproject = pyproject.replace('["my_pruners"]', '["my_pruners", "my_llm_pruners"]') + LLM_ENTRY_POINTS
    return {"pyproject.toml": pyproject, "my_pruners.py": module, "my_llm_pruners.py": LLM_MODULE}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The three services with the package; its pruner is the default of the encoder service."""
    root = tmp_path_factory.mktemp("package")
    stack = lab_stack(root / "log", encoder_service=["--pruner", "norm"])
    stack.environment = {**ENVIRONMENT, "PYTHONPATH": str(install(root, documented_package()))}
    with stack:
        stack.wait_ready(STARTUP_S)
        client = Client(stack.url)
        with client.http:
            yield client


def test_the_gateway_lists_them_with_their_parameters(services: Client) -> None:
    listed = services.http.get("/v1/pruners").json()
    assert listed["default_pruner"] == "norm"
    pruners = {pruner["name"]: pruner for pruner in listed["pruners"]}
    assert pruners["norm"] == {
        "name": "norm",
        "side": "encoder",
        "summary": "Keeps the tokens with the largest vectors.",
        "reference": "",
        "reads_text": False,
        "chooses_budget": False,
        "parameters": [
            {
                "name": "largest",
                "type": "boolean",
                "default": True,
                "description": "true or false; whether the largest or the smallest vectors are kept",
            }
        ],
    }
    assert pruners["fastv_of_mine"]["side"] == "llm"
    assert {"desap", "fastv"} < pruners.keys()


def test_they_prune_with_the_parameters_of_a_request(services: Client, pictures: Pictures) -> None:
    picture = pictures.fresh()
    llm_pruner = {"name": "fastv_of_mine", "keep_tokens": 5}
    kept = []
    for largest in (True, False):
        params = {"largest": largest}
        answer = services.ask(
            picture, QUESTION, pruner_params=params, keep_tokens=10, llm_pruner=llm_pruner, explain=True
        )
        assert answer["usage"]["visual_tokens_kept"] == 10
        kept.append(set(answer["explain"]["kept"]))
    assert len(kept[0]) == len(kept[1]) == 10
    assert not kept[0] & kept[1]


def test_a_wrong_parameter_is_refused_as_declared(services: Client, pictures: Pictures) -> None:
    response = services.post(pictures.fresh(), QUESTION, pruner="norm", pruner_params={"largest": "very"})
    assert response.status_code == 422
    assert "true or false; whether the largest or the smallest" in response.text


@pytest.mark.parametrize(
    ("service", "group", "entry_point", "flags", "what"),
    [
        ("encoder_service", "fovea.pruners", "none.PRUNER", [], "'none', which exists already"),
        ("encoder_service", "fovea.pruners", "Pruner", [], "does not name a pruner of the encoder service"),
        ("encoder_service", "fovea.pruners", "gone", ["--pruner", "x"], "its module does not hold the object"),
        ("llm_service", "fovea.llm_pruners", "Pruner", [], "does not name a pruner of the LLM service"),
    ],
)
def test_a_package_that_cannot_be_used_stops_the_service_with_one_sentence(
    tmp_path: Path, service: str, group: str, entry_point: str, flags: list[str], what: str
) -> None:
    files = {
        "pyproject.toml": project("bad-pruners", {group: {"bad": f"bad_pruners:{entry_point}"}}),
        "bad_pruners.py": "from encoder_service.pruners import none\nfrom encoder_service.pruners.base import Pruner\n",
    }
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(install(tmp_path, files))}
    model = ["--model", str(shipped_checkpoint("llava")), "--device", "cpu", "--listen", "127.0.0.1:0"]
    words = [sys.executable, "-m", service, *model, *flags]
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == (2 if flags else 1)
    last = ended.stderr.strip().splitlines()[-1]
    message = json.loads(last)["message"] if last.startswith("{") else last
    assert f"the package 'bad-pruners' (entry point 'bad' of {group})" in message
    assert what in message
    assert "Traceback" not in ended.stderr
    assert str(tmp_path) not in ended.stderr
