"""Pruners of other packages in the real services: listed, used, and refused at start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fovea.checkpoints.shipped import shipped_checkpoint
from tests.documented import ROOT
from tests.e2e.conftest import STARTUP_S, Client, Pictures
from tests.lab_stack import ENVIRONMENT, lab_stack
from tests.pages import blocks, run
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
    """Files of the package on the page, with an LLM pruner beside the one that it shows."""
    page = blocks("docs/extending.md")
    module, test = (block.body for block in page if block.kind == "python")
    (pyproject,) = (block.body for block in page if block.kind == "toml")
    pyproject = pyproject.replace('["my_pruners"]', '["my_pruners", "my_llm_pruners"]') + LLM_ENTRY_POINTS
    return {
        "pyproject.toml": pyproject,
        "my_pruners.py": module,
        "test_my_pruners.py": test,
        "my_llm_pruners.py": LLM_MODULE,
    }


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with the installed package; the files of the project are beside it."""
    return install(tmp_path_factory.mktemp("package"), documented_package())


@pytest.fixture(scope="module")
def services(package: Path) -> Iterator[Client]:
    """The three services with the package; its pruner is the default of the encoder service."""
    stack = lab_stack(package.parent / "log", encoder_service=["--pruner", "centre"])
    stack.environment = {**ENVIRONMENT, "PYTHONPATH": str(package)}
    with stack:
        stack.wait_ready(STARTUP_S)
        client = Client(stack.url)
        with client.http:
            yield client


def test_the_tests_of_the_page_pass(package: Path) -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_pruners.py"]
    environment = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{ROOT}"}
    done = subprocess.run(words, cwd=package.parent / "project", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_the_commands_of_the_page_work(services: Client, tmp_path: Path) -> None:
    install_it, ask_it = (block for block in blocks("docs/extending.md") if block.kind == "bash")
    assert install_it.body.split("\n")[:-1] == [
        "pip install . pytest",
        "python -m pytest",
        "fovea up",
    ]  # as the fixtures do
    printed = run(ask_it, services.url, tmp_path)
    assert "pink" in printed
    assert '"visual_tokens_kept"' in printed


def test_the_gateway_lists_them_with_their_parameters(services: Client) -> None:
    listed = services.http.get("/v1/pruners").json()
    assert listed["default_pruner"] == "centre"
    pruners = {pruner["name"]: pruner for pruner in listed["pruners"]}
    assert pruners["centre"] == {
        "name": "centre",
        "side": "encoder",
        "summary": "Keeps salient tokens near the middle of the image.",
        "reference": "",
        "reads_text": False,
        "chooses_budget": False,
        "parameters": [
            {
                "name": "radius",
                "type": "number",
                "default": 0.3,
                "description": "0.05 to 10; standard deviation of the weight, in widths of the image",
            }
        ],
    }
    assert pruners["fastv_of_mine"]["side"] == "llm"
    assert {"desap", "fastv"} < pruners.keys()


def test_they_prune_with_the_parameters_of_a_request(services: Client, pictures: Pictures) -> None:
    picture = pictures.fresh()
    llm_pruner = {"name": "fastv_of_mine", "keep_tokens": 5}
    distances = []
    for radius in (0.05, 10):
        params = {"radius": radius}
        answer = services.ask(
            picture, QUESTION, pruner_params=params, keep_tokens=10, llm_pruner=llm_pruner, explain=True
        )
        assert answer["usage"]["visual_tokens_kept"] == 10
        rows, columns = answer["explain"]["grid"]
        places = [divmod(position, columns) for position in answer["explain"]["kept"]]
        distances.append(sum((row - (rows - 1) / 2) ** 2 + (column - (columns - 1) / 2) ** 2 for row, column in places))
    near, far = distances
    assert near < far


def test_a_wrong_parameter_is_refused_as_declared(services: Client, pictures: Pictures) -> None:
    response = services.post(pictures.fresh(), QUESTION, pruner="centre", pruner_params={"radius": 0})
    assert response.status_code == 422
    assert "0.05 to 10; standard deviation of the weight" in response.text


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
