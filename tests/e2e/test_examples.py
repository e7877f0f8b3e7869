"""The examples run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fovea.cli import main
from fovea.processes.stack import Stack
from tests.certificates import Authority
from tests.documented import ROOT
from tests.lab_stack import lab_stack

EXAMPLES = ROOT / "examples"
STARTUP_S = 60


@pytest.fixture
def picture_file(picture: bytes, tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    path.write_bytes(picture)
    return str(path)


@pytest.fixture(scope="module")
def gateway_with_keys(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables for a gateway with keys and a certificate, in front of the services of `stack`."""
    folder = tmp_path_factory.mktemp("keys")
    with pytest.MonkeyPatch.context() as patch, (folder / "printed").open("w") as printed:
        patch.setattr(sys, "stdout", printed)
        assert main(["keys", "add", "examples", "--file", str(folder / "keys")]) == 0
    key = (folder / "printed").read_text().strip()
    authority = Authority(folder)
    files = authority.issue("gateway", "127.0.0.1")
    flags = ["--keys-file", str(folder / "keys"), "--tls-cert", files.cert, "--tls-key", files.key]
    with another_gateway(stack, folder / "log", *flags) as url:
        yield {"FOVEA_URL": url, "FOVEA_API_KEY": key, "FOVEA_CA_FILE": authority.ca}


@contextmanager
def another_gateway(stack: Stack, log: Path, *flags: str) -> Iterator[str]:
    """URL of a gateway with `flags`, in front of the services of `stack`."""
    gateway = lab_stack(log, gateway=["--wire-dtype", "float32", *flags])
    gateway.encoder_address, gateway.llm_address = stack.encoder_address, stack.llm_address
    try:
        gateway.start("gateway")
        gateway.wait_ready(STARTUP_S)
        yield gateway.url
    finally:
        gateway.stop()


@pytest.fixture(params=["plain", "with keys over TLS"])
def variables(stack: Stack, request: pytest.FixtureRequest) -> dict[str, str]:
    """Variables of the examples, for a plain gateway and for one with keys and a certificate."""
    if request.param == "plain":
        return {"FOVEA_URL": stack.url}
    variables: dict[str, str] = request.getfixturevalue("gateway_with_keys")
    return variables


def run(variables: dict[str, str], *command: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "FOVEA_API_KEY"} | variables
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_curl(variables: dict[str, str], picture_file: str) -> None:
    output = run(variables, str(EXAMPLES / "curl.sh"), picture_file)
    assert output.count('"finish_reason"') == 4
    assert "event: done" in output
    assert '"desap"' in output


def test_stream(variables: dict[str, str], picture_file: str) -> None:
    output = run(variables, sys.executable, str(EXAMPLES / "stream.py"), picture_file, "Describe the picture.")
    assert "16 of 144 visual tokens" in output


def test_compare_pruners(variables: dict[str, str], picture_file: str) -> None:
    output = run(variables, sys.executable, str(EXAMPLES / "compare_pruners.py"), picture_file, "Is there a red star?")
    assert {line.split()[0] for line in output.splitlines()} >= {"desap", "cls", "random", "none", "fastv"}


def test_examples_name_a_pruner_beside_a_budget(stack: Stack, picture_file: str, tmp_path: Path) -> None:
    """The default pruner `none`, with which docs/openai.md starts a server, takes no budget."""
    with another_gateway(stack, tmp_path / "log", "--pruner", "none") as url:
        curl = run({"FOVEA_URL": url}, str(EXAMPLES / "curl.sh"), picture_file)
        run({"FOVEA_URL": url}, sys.executable, str(EXAMPLES / "stream.py"), picture_file, "What do you see?")
        compare = [sys.executable, str(EXAMPLES / "compare_pruners.py"), picture_file, "Is there a red star?"]
        compared = run({"FOVEA_URL": url}, *compare)
    first, pruned, *_ = re.findall(r'"visual_tokens_kept": ?(\d+)', curl)
    assert (first, pruned) == ("144", "32")
    assert "fastv" in compared


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {
        "README.md",
        "curl.sh",
        "stream.py",
        "compare_pruners.py",
    }
