"""Every command that a document, a docstring or a deployment file names is run here in a short form.

`SHORT` has the words of the short forms. `ELSEWHERE` names the test that runs a command instead, `NOT_RUN` the reason
why a command is not run. A documented command that is in none of them fails, and so does an entry that no document
names any more. No command may change a file of the repository.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.wire.namespaces import why_not
from fovea.processes.stack import Stack
from tests.documented import ROOT, Documented, documented
from tests.lab_stack import ENVIRONMENT

DOCUMENTED = documented()
SERVICES = ("encoder_service", "llm_service", "gateway")  # they read the command line themselves

# {out} is an empty folder, {pictures} one with a few images, {gateway} the URL of a running one.
SHORT: dict[str, list[str]] = {
    "benchmarks.ablation": ["task_share", "attention_source", "alignment", "budget_sweep", "--smoke"],
    "benchmarks.accuracy": ["--smoke"],
    "benchmarks.capacity measure": ["measure", "--smoke"],
    "benchmarks.capacity plan": ["plan", "--smoke"],
    "benchmarks.capacity validate": ["validate"],
    "benchmarks.engine": ["--smoke"],
    "benchmarks.golden": ["tests/golden", "--method", "visionzip"],
    "benchmarks.link": ["--smoke"],
    "benchmarks.load": ["--smoke"],
    "benchmarks.replicas": ["llm", "--smoke"],
    "benchmarks.speed.gateway": ["--smoke"],
    "benchmarks.speed.overload": ["--smoke"],
    "benchmarks.speed.jpeg_scale": ["--smoke"],
    "benchmarks.speed.load": ["--smoke"],
    "benchmarks.speed.rans": ["--smoke"],
    "benchmarks.wire": ["--smoke"],
    "docsite.settings_page": ["--out", "{out}/settings.md"],
    "encoder_service": ["--help"],
    "encoder_service.calibrate": [
        *("--model", "lab/checkpoints/llava", "--text-tower", "lab/checkpoints/clip"),
        *("--pictures", "{pictures}", "--out", "{out}/wire.basis"),
    ],
    "fovea.rpc.probe": ["{gateway}/healthz"],
    "fovea.rpc.bearer_tokens": ["berlin"],
    "gateway": ["--help"],
    "lab.card": ["{figures}"],
    "lab.discriminate": ["--scenes", "1"],
    "lab.evaluate": ["--scenes", "1", "--out", "{out}/figures.json"],
    "lab.calibration_images": ["{out}", "--count", "2"],
    "lab.world576.composition": ["--benchmark", "--device", "cpu", "--batch", "1", "--seconds", "0.1"],
    "lab.world576.evaluate": ["--checkpoint", "lab/checkpoints/llava", "--device", "cpu", "--scenes", "1"],
    "lab.page_figures": ["{out}", "--url", "{gateway}"],
    "llm_service": ["--help"],
    "make help": [],
}
TRANSFERS = "tests/unit/benchmarks/wire/test_link.py::test_kept_tokens_are_as_much_smaller"
ON_A_GPU = "tests/unit/benchmarks/speed/test_gpu.py::test_every_phase_runs_on_the_cpu_in_its_short_form"
ELSEWHERE = {
    "benchmarks.better_than_desap": (
        "tests/unit/benchmarks/accuracy/test_better_than_desap.py::test_a_small_run_writes_verdict_and_tables"
    ),
    "benchmarks.coverage": (
        "tests/unit/benchmarks/accuracy/test_coverage.py::test_a_small_run_writes_tables_and_goes_on_from_its_folder"
    ),
    "benchmarks.flops": "tests/unit/benchmarks/speed/test_flops.py::test_a_run_writes_what_it_prints",
    "benchmarks.smaller_images": (
        "tests/unit/benchmarks/accuracy/test_smaller_images.py"
        "::test_a_small_run_writes_paired_tables_and_goes_on_where_it_stopped"
    ),
    "benchmarks.speed.decode": (
        "tests/unit/benchmarks/speed/test_decode.py::test_steps_are_compared_and_operations_counted"
    ),
    "benchmarks.speed.slots": (
        "tests/unit/benchmarks/speed/test_decode.py::test_the_documented_table_is_the_computed_one"
    ),
    "benchmarks.speed.stalls": (
        "tests/unit/benchmarks/speed/test_stalls.py::test_streams_and_long_prompts_are_timed_on_both_sides"
    ),
    "benchmarks.task_map": (
        "tests/unit/benchmarks/accuracy/test_task_map.py"
        "::test_a_small_run_finds_the_asked_object_better_than_saliency_does"
    ),
    "benchmarks.dispatches": ON_A_GPU,
    "benchmarks.speed.answer": ON_A_GPU,
    "benchmarks.speed.concurrency": ON_A_GPU,
    "benchmarks.speed.device_choices": ON_A_GPU,
    "benchmarks.speed.encoder_overhead": ON_A_GPU,
    "benchmarks.speed.graphs": ON_A_GPU,
    "benchmarks.speed.prefill": ON_A_GPU,
    "benchmarks.speed.prune": ON_A_GPU,
    "benchmarks.speed.second_question": ON_A_GPU,
    "benchmarks.speed.start": ON_A_GPU,
    "benchmarks.speed.feature_copies": (
        "tests/unit/benchmarks/speed/test_feature_copies.py::test_the_three_services_are_counted"
    ),
    "benchmarks.speed.footprint": (
        "tests/unit/benchmarks/speed/test_footprint.py::test_a_short_run_reports_each_service"
    ),
    "benchmarks.safety.media_cost": (
        "tests/unit/benchmarks/safety/test_media_cost.py::test_a_short_run_writes_costs_and_bounds"
    ),
    "benchmarks.split_exactness": "tests/e2e/test_every_family.py::test_the_split_services_are_the_unsplit_model",
    "benchmarks.wire.planes": (
        "tests/unit/benchmarks/wire/test_planes.py::test_fewer_bytes_change_more_of_the_first_token"
    ),
    "benchmarks.wire.link_transfer send": TRANSFERS,
    "benchmarks.wire.link_transfer sink": TRANSFERS,
    "fovea ask": "tests/e2e/test_documented_commands.py::test_a_question_of_the_pages_is_answered",
    "fovea bench": "tests/e2e/test_bench.py::test_pruned_and_unpruned_are_compared",
    "fovea chat": "tests/e2e/test_cli.py::test_a_chat_goes_on_about_its_image",
    "fovea completion": "tests/unit/fovea/cli/test_completion.py::test_bash_completes_commands_and_options",
    "fovea demo": "tests/e2e/test_cli.py::test_the_demo_is_right_about_its_picture",
    "fovea doctor": "tests/e2e/test_cli.py::test_the_doctor_finds_nothing_wrong_with_a_running_gateway",
    "fovea explain": "tests/e2e/test_documented_commands.py::test_a_question_of_the_pages_is_answered",
    "fovea keys add": "tests/unit/fovea/api_keys/test_keys.py::test_only_standard_output_has_the_key",
    "fovea keys list": "tests/unit/fovea/api_keys/test_keys.py::test_the_list_names_what_is_accepted_and_no_key",
    "fovea keys revoke": "tests/unit/fovea/api_keys/test_keys.py::test_a_key_is_changed_by_a_second_one_of_its_name",
    "fovea up": "tests/e2e/test_cli.py::test_up_serves_until_it_is_interrupted",
    "fovea.cli": "tests/e2e/test_cli.py::test_ask_prints_the_answer",
    "lab.world576": "tests/unit/lab/world576/test_train_script.py::test_one_call_makes_checkpoints_figures_and_a_card",
    "make demo": "tests/e2e/test_cli.py::test_the_demo_is_right_about_its_picture",
    "make docs": "tests/unit/docs/test_site.py::test_a_browser_fetches_nothing_from_another_host",
    "make up": "tests/e2e/test_cli.py::test_up_serves_until_it_is_interrupted",
}
NOT_RUN = {
    "benchmarks.<name>": "a placeholder",
    "benchmarks.capacity": "its parts are run",
    "lab data": "it trains two tokenizers, which takes minutes; tests/unit/lab has what it renders and asks",
    "lab clip": "it compiles and trains for an hour; tests/unit/lab/test_training_math.py has its arithmetic",
    "lab train": "it compiles and trains for two hours; tests/unit/lab/test_training_math.py has its arithmetic",
    "lab.world576.atlas": "it needs a font; tests/unit/lab/world576/test_composition.py has what it drew",
    "make ci": "it is what runs this test",
    "make docs-serve": "it serves until it is interrupted what `make docs` builds",
    "make image-vllm": "it fetches gigabytes of CUDA; tests/unit/deploy/test_containers.py reads its stage",
    "make images": "CI builds the images with make test-images",
    "make imports": "CI runs it beside the tests",
    "make install": "CI begins with it",
    "make proto": "it writes into the repository; CI runs proto-check, which compares",
    "make test": "it is what runs this test",
    "make test-clients": "it fetches 5 GB of clients that others wrote; CI does without",
    "make test-images": "CI runs it beside the tests, where a container engine can be had",
    "make test-fast": "its tests are among those that run this test",
    "make test-vllm": "it fetches 3.5 GB and takes a quarter of an hour",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    _run("lab.calibration_images", [str(folder), "--count", "8"])
    return folder


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("figures") / "figures.json"
    _run("lab.evaluate", ["--scenes", "1", "--out", str(file)])
    return file


def _run(module: str, words: list[str]) -> str:
    """The output of `python -m MODULE WORDS`, run in this process, which has imported torch already."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"there is no module {module}"
    name = f"{module}.__main__" if spec.submodule_search_locations else module
    found = importlib.import_module(name)
    main = found.main if hasattr(found, "main") else importlib.import_module(f"{module}.startup").main
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.chdir(ROOT):
        try:
            status = main(words)
        except SystemExit as left:
            status = left.code
    assert not status, printed.getvalue()
    return printed.getvalue()


def test_every_documented_command_has_a_short_form() -> None:
    keys = {command.key for command in DOCUMENTED}
    registered = {*SHORT, *ELSEWHERE, *NOT_RUN}
    assert not {f"{command.place}: {command.text}" for command in DOCUMENTED if command.key not in registered}
    assert not registered - keys, "no document names these any more"


@pytest.mark.parametrize("test", sorted(set(ELSEWHERE.values())))
def test_the_tests_that_run_the_others_exist(test: str) -> None:
    file, name = test.split("::")
    assert f"def {name}" in (ROOT / file).read_text()


def test_modules_that_other_tests_run_are_found_by_their_documented_names() -> None:
    modules = {key.split()[0] for key in ELSEWHERE if key.startswith(("benchmarks.", "lab."))}
    assert not {module for module in modules if importlib.util.find_spec(module) is None}


@pytest.mark.parametrize("key", SHORT)
@pytest.mark.usefixtures("unchanged")
def test_a_command_runs_in_its_short_form(
    key: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if key == "benchmarks.link" and (reason := why_not()):
        pytest.skip(reason)
    words = [_filled(word, request, tmp_path) for word in SHORT[key]]
    if key == "make help":
        subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True)
        return
    module = key.split()[0]
    monkeypatch.setattr(sys, "argv", [module, *words])
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    if module in SERVICES:
        assert _help(key)
    else:
        printed = _run(module, words)
        assert printed.strip() or module in ("fovea.rpc.probe", "lab.calibration_images")


def _filled(word: str, request: pytest.FixtureRequest, out: Path) -> str:
    word = word.replace("{out}", str(out))
    for name in ("pictures", "figures"):
        if f"{{{name}}}" in word:
            word = word.replace(f"{{{name}}}", str(request.getfixturevalue(name)))
    if "{gateway}" in word:
        stack: Stack = request.getfixturevalue("stack")
        word = word.replace("{gateway}", stack.url)
    return word


@functools.cache
def _help(key: str) -> str:
    first, *rest = key.split()
    module, words = ("fovea.cli", rest) if first == "fovea" else (first, rest if first == "benchmarks.capacity" else [])
    if module not in SERVICES:
        return _run(module, [*words, "--help"])
    command = [sys.executable, "-m", module, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


OPTIONS: dict[str, set[str]] = {}
for command in DOCUMENTED:
    if command.options and not command.key.startswith("make") and command.key not in ("fovea.rpc.bearer_tokens",):
        OPTIONS.setdefault(command.key, set()).update(command.options)


@pytest.mark.parametrize("key", sorted(OPTIONS))
def test_every_documented_option_exists(key: str) -> None:
    text = _help(key)
    assert not {option for option in OPTIONS[key] if not re.search(rf"{re.escape(option)}\b", text)}


TARGETS = sorted({command.key.split()[1] for command in DOCUMENTED if command.key.startswith("make ")})


@pytest.mark.parametrize("target", TARGETS)
def test_a_documented_target_exists(target: str) -> None:
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def _asked(command: Documented) -> bool:
    return command.key in ("fovea ask", "fovea explain") and "lab/demo/demo.png" in command.words


# The blocks of these pages are run by tests of their own.
ELSEWHERE_ASKED = ("README.md", "docs/start.md", "docs/concepts.md", "docs/extending.md")
ASKED = sorted({command.text for command in DOCUMENTED if _asked(command) and command.place not in ELSEWHERE_ASKED})


@pytest.mark.parametrize("text", ASKED)
@pytest.mark.usefixtures("unchanged")
def test_a_question_of_the_pages_is_answered(text: str, stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "lab").symlink_to(ROOT / "lab")
    line = f"{sys.executable} -m fovea.cli {text.removeprefix('fovea ')}"
    environment = {**os.environ, **ENVIRONMENT, "FOVEA_URL": stack.url, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-euc", line], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_pages_ask_from_standard_input() -> None:
    assert len([text for text in ASKED if "<" in text]) >= 2
    assert json.loads((ROOT / "lab" / "demo" / "demo.json").read_text())["image"] == "demo.png"
